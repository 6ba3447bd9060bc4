package driver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/driver/egress"
	"pangaea/driver/supervisor"
)

// egressPolicy reads the operator's egress block and its exceptions.
func (s *settings) egressPolicy() {
	e := egress.Config{Owner: s.StateDir, Resolvers: s.resolvers, PassFirewalls: s.AllowFirewallException}
	for _, text := range s.AllowEgress {
		exception, err := egress.ParseException(text)
		if err != nil {
			s.problem("allow_egress: %v", err)
			continue
		}
		e.Allow = append(e.Allow, exception)
	}
	for _, text := range s.Egress.Deny {
		prefix, err := egress.ParsePrefix(text)
		if err != nil {
			s.problem("egress deny: %v", err)
			continue
		}
		e.Deny = append(e.Deny, prefix)
	}
	if s.Egress.Subnet != "" {
		subnet, err := egress.ParsePrefix(s.Egress.Subnet)
		if err == nil {
			err = egress.CheckSubnet(subnet)
		}
		if err != nil {
			s.problem("egress subnet %q: %v", s.Egress.Subnet, err)
		}
		e.Subnet = subnet
	}
	e.Connections = s.bound("egress max_connections", s.Egress.MaxConnections)
	e.Rate = s.bound("egress connection_rate", s.Egress.ConnectionRate)
	s.namespacePatterns("egress police_namespaces", s.Egress.PoliceNamespaces)
	if s.Egress.Disabled && len(s.Egress.PoliceNamespaces) > 0 {
		s.problem("egress police_namespaces: nothing is policed while egress is disabled")
	}
	s.egress = e
}

// bound reads a limit, 0 being its default.
func (s *settings) bound(name string, n int64) uint32 {
	const most = 1 << 20
	if n < 0 || n > most {
		s.problem("%s must be 1 to %d", name, most)
		return 0
	}
	return uint32(n)
}

// resolvers are the servers that tasks ask for names if their job names none: the operator's, else the host's, but not
// those that only the host itself can reach.
func (s *settings) resolvers() []netip.Addr {
	texts := s.DNS.Servers
	if len(texts) == 0 {
		texts = hostResolvers()
	}
	var servers []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err == nil && !a.IsLoopback() {
			servers = append(servers, a)
		}
	}
	return servers
}

// hostDNS names the host's servers that a task can reach; nil if there are none.
func (s *settings) hostDNS() []string {
	var servers []string
	for _, a := range s.resolvers() {
		if a.Is4() {
			servers = append(servers, a.String())
		}
	}
	return servers
}

// hostResolvers are those of the host. Where systemd-resolved stands before them, they are in its own file.
func hostResolvers() []string {
	var servers []string
	for _, place := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, _ := os.ReadFile(place)
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) == 2 && fields[0] == "nameserver" && !strings.HasPrefix(fields[1], "127.") {
				servers = append(servers, fields[1])
			}
		}
		if len(servers) > 0 {
			return servers
		}
	}
	return nil
}

// egressLocked is the way out of tasks' own networks; nil if the operator has disabled it. The caller holds mu.
func (d *Driver) egressLocked() *egress.Network {
	if d.egress == nil && !d.conf.Egress.Disabled {
		config := d.conf.egress
		config.Logger = d.log.Named("egress")
		d.egress = egress.New(config)
	}
	return d.egress
}

// addEgress completes a fingerprint with whether tasks have a way out.
func (d *Driver) addEgress(f *drivers.Fingerprint) *drivers.Fingerprint {
	d.mu.Lock()
	network := d.egressLocked()
	d.mu.Unlock()
	if f.Health != drivers.HealthStateHealthy {
		return f
	}
	kind := "none"
	if network != nil {
		err := network.Ensure()
		blocked := network.Blocked()
		switch {
		case err != nil:
			f.HealthDescription += fmt.Sprintf(", but tasks without a group network get a loopback interface only: %v", err)
		case blocked != "":
			kind = "firewalled"
			f.HealthDescription += fmt.Sprintf(", but the host's firewall keeps tasks without a group network from the internet: %s drops what it does not know: %s", blocked, passFirewall)
		default:
			kind = "internet"
		}
	}
	f.Attributes["driver.runc.egress"] = pstructs.NewStringAttribute(kind)
	return f
}

// passFirewall is what an operator can do about a firewall that knows nothing of tasks.
const passFirewall = "set the driver's option allow_firewall_exception = true, or iptables -I FORWARD -i pg+ -j ACCEPT && iptables -I FORWARD -o pg+ -j ACCEPT"

// inspectFirewall looks for what keeps tasks' own networks from the internet.
func (s *settings) inspectFirewall() Finding {
	f := Finding{Area: inspectArea, Name: "firewall", Verdict: verdictOK, Seen: "lets tasks pass"}
	blocked, err := egress.Firewalls(s.StateDir)
	switch {
	case s.Egress.Disabled:
		f.Seen = "of no matter: egress is disabled"
	case err != nil:
		f.Verdict, f.Seen, f.Fix = verdictWarn, err.Error(), "run this as root"
	case blocked != "" && s.AllowFirewallException:
		f.Seen = blocked + " drops what it does not know: the driver makes an exception for tasks"
	case blocked != "":
		f.Verdict, f.Seen, f.Fix = verdictWarn, blocked+" drops what it does not know, tasks' traffic too", passFirewall
	}
	return f
}

// wantsUplink tells whether the task gets a network of its own with a way out: its group has none, and neither the job
// nor the operator wants it to have none.
func (s *startup) wantsUplink() bool {
	return s.uplinks != nil && s.job.NetworkMode == "" && s.plan.Netns == ""
}

// warm prepares the next task's start.
func (s *startup) warm() {
	s.supervisor.Warm()
	err := s.outlines.Make()
	if err != nil {
		s.d.log.Debug("the next start takes longer", "error", err)
	}
	if s.uplinks != nil {
		s.uplinks.Warm()
	}
}

// linkUp gives the task a network of its own. Where there is no policed way out the task is left with a loopback
// interface: never with an open network.
func (s *startup) linkUp() error {
	if s.plan.Netns != "" {
		// The group's. Its wall stands before anything of the task's runs.
		return structs.NewRecoverableError(s.d.police(s.uplinks, s.cfg), true)
	}
	if !s.wantsUplink() {
		return nil
	}
	namespace, err := s.uplinks.Take(s.file.ID)
	if errors.Is(err, egress.ErrNoWayOut) {
		s.event("The task has a loopback interface only: "+err.Error(), nil)
		s.d.log.Warn("a task has no network", "task_id", s.cfg.ID, "error", err)
		return nil
	}
	if err != nil {
		return structs.NewRecoverableError(fmt.Errorf("cannot make the task's network: %w", err), true)
	}
	if blocked := s.uplinks.Blocked(); blocked != "" {
		s.event("The host's firewall may keep the task from the internet: "+blocked+" drops what it does not know", nil)
	}
	place := netnsPath(s.dir)
	s.undone("cannot remove the task's network", func() error { return egress.Detach(place) })
	defer namespace.Close()
	err = namespace.Attach(place)
	if err != nil {
		return err
	}
	s.plan.Netns = place
	return nil
}

// netnsPath is where a task's own network namespace is mounted until its sandbox has joined it, by which it lives on.
func netnsPath(dir string) string { return filepath.Join(dir, "netns") }

// unmountNetwork removes the mounts that only the start of a task needs.
func unmountNetwork(dir string) error {
	err := egress.Detach(sysfsDir(dir))
	if err != nil {
		return err
	}
	return egress.Detach(netnsPath(dir))
}

// police walls the group's network in, if the operator wants that for the task's namespace.
func (d *Driver) police(uplinks *egress.Network, cfg *drivers.TaskConfig) error {
	if uplinks == nil || !d.settings().polices(cfg) {
		return nil
	}
	return uplinks.Police(groupNetwork(cfg))
}

// polices tells whether the task's group has a network that the driver polices.
func (s *settings) polices(cfg *drivers.TaskConfig) bool {
	return groupNetwork(cfg) != "" && covers(s.Egress.PoliceNamespaces, cfg.Namespace)
}

// permitNetwork refuses what the operator does not want of Nomad's own networks.
func permitNetwork(cfg *drivers.TaskConfig, job *JobConfig, s *settings) error {
	if !s.RefuseGroupNetworks || job.NetworkMode != "" || groupNetwork(cfg) == "" {
		return nil
	}
	return errors.New("the group's network is not allowed on this host, because it reaches the owner's own network: leave the group's network block out and the task gets one that leads to the internet only; " +
		"the operator can allow it by removing the runc driver's option refuse_group_networks")
}

// permitOwnStack refuses settings of the host's stack, which a task with a stack of its own would never meet, and what
// would get past the wall around a group's network: such a task's packets go straight to the interface.
func (s *startup) permitOwnStack() error {
	if !s.ownStack() {
		return nil
	}
	for key := range s.job.Sysctl {
		err := supervisor.RunscSysctl(strings.ReplaceAll(key, "/", "."))
		if err != nil {
			return err
		}
	}
	if s.job.NetworkMode != "" || !s.conf.polices(s.cfg) {
		return nil
	}
	return fmt.Errorf("cannot join the group's network under runtime %q: this host polices it, and gVisor's own network stack passes by what polices it; "+
		"leave the group's network block out and the task gets one that leads to the internet only, or let the operator set allow_host_stack for the runtime", s.runtime)
}

// groupNetwork is the path of the network that Nomad made for the group, or "".
func groupNetwork(cfg *drivers.TaskConfig) string {
	if cfg.NetworkIsolation == nil {
		return ""
	}
	return cfg.NetworkIsolation.Path
}
