package doctor

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
)

// checkNetwork looks at what a task's own network, and its egress policy, are made of.
func checkNetwork(ctx context.Context, h Host, n nomad) []Finding {
	const a = area("network")
	return []Finding{a.cni(h, n), a.iptables(ctx, h), a.nftables(h), a.conntrack(h), a.forwarding(h)}
}

// cni looks for the plugins that Nomad's own bridge network calls.
func (a area) cni(h Host, n nomad) Finding {
	dirs := filepath.SplitList(n.conf.cniPath)
	var missing []string
	for _, plugin := range []string{"bridge", "firewall", "host-local", "loopback", "portmap"} {
		found := false
		for _, dir := range dirs {
			found = found || h.exists(filepath.Join(dir, plugin))
		}
		if !found {
			missing = append(missing, plugin)
		}
	}
	if len(missing) == 0 {
		return a.ok("CNI plugins", "in %s", n.conf.cniPath)
	}
	fix := "install the CNI plugins (Debian: containernetworking-plugins), and set client { cni_path } to where they are"
	if h.exists("/usr/lib/cni/bridge") {
		fix = `set client { cni_path = "/usr/lib/cni" }`
	}
	return a.fail("CNI plugins", fix, "no %s in %s: groups with a bridge network cannot start", strings.Join(missing, ", "), n.conf.cniPath)
}

// iptables is what the CNI plugins firewall and portmap run. Docker sets FORWARD to DROP, which hits everybody's bridges.
func (a area) iptables(ctx context.Context, h Host) Finding {
	program := h.find("iptables")
	if program == "" {
		return a.fail("iptables", "apt-get install iptables", "not installed: the CNI plugins firewall and portmap need it")
	}
	if h.UID != 0 {
		return a.warn("iptables", asRoot, "its rules could not be read")
	}
	rules, err := h.Run(ctx, program, "-S", "FORWARD")
	if err != nil {
		return a.fail("iptables", "modprobe ip_tables iptable_filter, or use iptables-nft", "does not work: %v", err)
	}
	if !strings.Contains(rules, "-P FORWARD DROP") {
		return a.ok("iptables", "forwards by default")
	}
	if strings.Contains(rules, "-j CNI-FORWARD") {
		return a.ok("iptables", "FORWARD drops by default, as Docker sets it, with an exception for CNI networks")
	}
	return a.warn("iptables", "iptables -I DOCKER-USER -j ACCEPT -i nomad && iptables -I DOCKER-USER -j ACCEPT -o nomad, or iptables -P FORWARD ACCEPT",
		"FORWARD drops by default, as Docker sets it: only what the CNI plugin firewall excepts gets through")
}

func (a area) nftables(h Host) Finding {
	err := h.Nftables()
	switch {
	case err == nil:
		return a.ok("nftables", "available for egress policies")
	case forbidden(err) && h.UID != 0:
		return a.warn("nftables", asRoot, "could not be tried")
	}
	return a.fail("nftables", "modprobe nf_tables", "not available, so that no egress policy can be enforced: %v", err)
}

func (a area) conntrack(h Host) Finding {
	const dir = "/proc/sys/net/netfilter/"
	most, err := strconv.Atoi(h.read(dir + "nf_conntrack_max"))
	if err != nil {
		return a.warn("connection tracking", "modprobe nf_conntrack", "not loaded: port mapping and egress policies need it")
	}
	now, _ := strconv.Atoi(h.read(dir + "nf_conntrack_count"))
	if now > most/10*8 {
		return a.warn("connection tracking", "sysctl -w net.netfilter.nf_conntrack_max="+strconv.Itoa(2*most), "%d of at most %d connections: new ones will be dropped", now, most)
	}
	return a.ok("connection tracking", "%d of at most %d connections", now, most)
}

func (a area) forwarding(h Host) Finding {
	if h.read("/proc/sys/net/ipv4/ip_forward") == "1" {
		return a.ok("forwarding", "on")
	}
	return a.warn("forwarding", "echo net.ipv4.ip_forward=1 >/etc/sysctl.d/60-pangaea.conf && sysctl --system",
		"off: the CNI plugin bridge turns it on with the first task, and whatever applies sysctls next turns it off again")
}
