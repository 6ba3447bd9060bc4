package driver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/drivers/shared/resolvconf"
	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"pangaea/driver/egress"
	"pangaea/driver/sandbox"
	"pangaea/driver/thread"
)

// joinNetwork decides on the task's network: that of its group, if Nomad made one; the host's, if the job asks and the
// operator allows it; else a namespace of its own, with a policed way out unless the job wants none. Nomad's own default
// is the host's network, which is not for strangers.
func joinNetwork(t *sandbox.Task, cfg *drivers.TaskConfig, job *JobConfig) error {
	switch {
	case job.NetworkMode != "" && job.NetworkMode != "host" && job.NetworkMode != "none":
		return fmt.Errorf(`cannot use network_mode %q: it is "host" or "none", or left out`, job.NetworkMode)
	case job.NetworkMode == "":
		t.Netns = groupNetwork(cfg)
	case job.NetworkMode == "host":
		t.HostNetwork = true
	}
	return nil
}

// network makes and enters the task's network, and writes the files that tell the task of it.
func (s *startup) network() error {
	err := s.linkUp()
	if err != nil {
		return err
	}
	address := "127.0.1.1"
	if s.plan.Netns != "" || s.plan.HostNetwork {
		s.plan.Sysfs = sysfsDir(s.dir)
		var sysctls map[string]string
		s.plan.Sysctls, sysctls = splitSysctls(s.job.Sysctl, s.plan.Netns != "")
		found, err := enterNetwork(s.dir, s.plan.Netns, sysctls)
		if err != nil {
			return err
		}
		if found.IsValid() {
			address = found.String()
		}
	}
	dns := nameServers(s.cfg, &s.job, s.conf)
	if len(dns.Servers) == 0 && s.plan.Netns == netnsPath(s.dir) {
		dns.Servers = s.conf.hostDNS()
	}
	binds, err := writeNetworkFiles(s.dir, s.job.ExtraHosts, dns, address+" "+s.plan.Hostname)
	if err != nil {
		return err
	}
	// What the job mounts at the same places wins.
	for _, b := range binds {
		if !slices.ContainsFunc(s.plan.Binds, func(own sandbox.Bind) bool { return own.Target == b.Target }) {
			s.plan.Binds = append(s.plan.Binds, b)
		}
	}
	return nil
}

// enterNetwork prepares the sandbox of a task that joins a network namespace: it mounts a sysfs that shows that
// namespace's interfaces and no others, opens its ports to programs without privileges, and returns its address.
//
// The sandbox can't do the first two itself, since the namespace belongs to the host's users, and the host's own /sys
// would tell about the host's interfaces. The mount is only needed until the sandbox has its own copy of it.
func enterNetwork(dir, netns string, sysctls map[string]string) (netip.Addr, error) {
	place := sysfsDir(dir)
	err := os.Mkdir(place, 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return netip.Addr{}, fmt.Errorf("cannot make a place for sysfs: %w", err)
	}
	var address netip.Addr
	thread.Throwaway(func() { address, err = enterHere(place, netns, sysctls) })
	return address, err
}

func enterHere(place, netns string, sysctls map[string]string) (address netip.Addr, err error) {
	if netns != "" {
		err = egress.Enter(netns)
		if err != nil {
			return address, err
		}
		// Nothing in the group's own namespace is anybody else's, so there are no ports to protect.
		err = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
		if err != nil {
			return address, fmt.Errorf("cannot open the group's ports: %w", err)
		}
		err = writeNetworkSysctls(sysctls)
		if err != nil {
			return address, err
		}
		address = firstAddress()
	}
	err = unix.Mount("sysfs", place, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
	if err != nil {
		return address, fmt.Errorf("cannot mount sysfs: %w", err)
	}
	return address, nil
}

// firstAddress is the first address of the calling thread's network that others can reach, IPv4 before IPv6.
func firstAddress() netip.Addr {
	var found netip.Addr
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr()
		}
		if !found.IsValid() {
			found = prefix.Addr()
		}
	}
	return found
}

// writeNetworkFiles writes the task's hosts, hostname and resolv.conf where the task can't, and returns their binds.
// own is the task's address and name.
func writeNetworkFiles(dir string, extraHosts []string, dns *drivers.DNSConfig, own string) ([]sandbox.Bind, error) {
	etc := etcDir(dir)
	err := os.Mkdir(etc, 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make the task's network files: %w", err)
	}
	hosts, err := hostsFile(extraHosts, own)
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(etc, "hosts"), []byte(hosts), 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot write the task's hosts file: %w", err)
	}
	err = os.WriteFile(filepath.Join(etc, "hostname"), []byte(own[strings.LastIndex(own, " ")+1:]+"\n"), 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot write the task's hostname file: %w", err)
	}
	_, err = resolvconf.GenerateDNSMount(etc, dns)
	if err != nil {
		return nil, fmt.Errorf("cannot write the task's resolv.conf: %w", err)
	}
	var binds []sandbox.Bind
	for _, file := range networkFiles(dir) {
		binds = append(binds, sandbox.Bind{Source: file, Target: "/etc/" + filepath.Base(file), ReadOnly: true})
	}
	return binds, nil
}

func etcDir(dir string) string { return filepath.Join(dir, "etc") }

// networkFiles are the task's own instead of its image's.
func networkFiles(dir string) []string {
	var files []string
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		files = append(files, filepath.Join(etcDir(dir), name))
	}
	return files
}

// nameServers are the task's own, else its group's, else the operator's; what none of them says is the host's. A job that
// only sets an option keeps the servers that it would have had: others may be closed to it.
func nameServers(cfg *drivers.TaskConfig, job *JobConfig, s *settings) *drivers.DNSConfig {
	choices := []*drivers.DNSConfig{
		{Servers: job.DNSServers, Searches: job.DNSSearches, Options: job.DNSOptions},
		cfg.DNS,
		{Servers: s.DNS.Servers, Searches: s.DNS.Searches, Options: s.DNS.Options},
	}
	dns := &drivers.DNSConfig{}
	for _, c := range choices {
		if c == nil {
			continue
		}
		for into, from := range map[*[]string][]string{&dns.Servers: c.Servers, &dns.Searches: c.Searches, &dns.Options: c.Options} {
			if len(*into) == 0 {
				*into = from
			}
		}
	}
	return dns
}

// checkPorts holds the job to ports that its group has. The ports themselves are open without the driver's doing: the
// group's network maps them, and a task in the host's binds them itself.
func checkPorts(cfg *drivers.TaskConfig, job *JobConfig, reachable bool) error {
	for _, label := range job.Ports {
		known := false
		if cfg.Resources != nil && cfg.Resources.Ports != nil {
			_, known = cfg.Resources.Ports.Get(label)
		}
		if !known {
			return fmt.Errorf("cannot use port %q: the group's network block has none of that label", label)
		}
		if !reachable {
			return fmt.Errorf(`cannot use port %q: the task has a network of its own; give its group network { mode = "bridge" }`, label)
		}
	}
	return nil
}

// hostsFile writes names for the loopback addresses, the allocation's address and what the job adds. A newline in any
// of them would be another entry, so each is checked.
func hostsFile(extra []string, own string) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	b.WriteString(own + "\n")
	name := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9])?$`)
	for _, entry := range extra {
		host, address, ok := strings.Cut(entry, ":")
		ip, err := netip.ParseAddr(strings.Trim(address, "[]"))
		// A zone (fe80::1%eth0) may hold anything, and names an interface that the task does not have.
		if !ok || err != nil || ip.Zone() != "" || !name.MatchString(host) {
			return "", fmt.Errorf("cannot read extra_hosts entry %q: write it like name:192.0.2.1", entry)
		}
		fmt.Fprintf(&b, "%s %s\n", ip, host)
	}
	return b.String(), nil
}

// hostName is the job's choice, or made of the task's name and its allocation's first digits.
func hostName(cfg *drivers.TaskConfig, job *JobConfig) (string, error) {
	if job.Hostname != "" {
		if !regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`).MatchString(job.Hostname) {
			return "", fmt.Errorf("cannot use hostname %q: it must be 1 to 63 letters, digits, dots and dashes", job.Hostname)
		}
		return job.Hostname, nil
	}
	name := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(cfg.Name), "-")
	name = strings.Trim(name[:min(len(name), 48)], "-")
	return strings.Trim(name+"-"+cfg.AllocID[:min(len(cfg.AllocID), 8)], "-"), nil
}
