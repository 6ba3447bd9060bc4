package doctor

import (
	"context"
	"net"
	"net/url"
	"time"
)

// Certificates and tokens of a pool are bound to time, and so are leases.
const (
	wornSkew   = 2 * time.Second // servers tell their time in whole seconds
	brokenSkew = 30 * time.Second
)

// checkClock compares the clock with what keeps it and with those of the servers that matter.
func checkClock(ctx context.Context, h Host, n nomad) []Finding {
	const a = area("clock")
	var all []Finding
	ok, err := h.Synchronised()
	switch {
	case err != nil:
		all = append(all, a.warn("synchronised", asRoot, "the kernel does not say: %v", err))
	case !ok:
		all = append(all, a.warn("synchronised", "timedatectl set-ntp true, or install chrony", "nothing keeps this clock right"))
	default:
		all = append(all, a.ok("synchronised", "yes"))
	}
	if n.server != "" {
		all = append(all, a.skew(ctx, h, "Nomad's server", n.server))
	}
	if n.consul != "" {
		all = append(all, a.skew(ctx, h, "Consul", n.consul))
	}
	return all
}

func (a area) skew(ctx context.Context, h Host, who, address string) Finding {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	before := h.Now()
	theirs, err := h.Date(ctx, address+"/v1/status/leader")
	if err != nil {
		return a.warn(who, "open its HTTP port to this host, or compare by hand: date; ssh ... date", "its clock cannot be read: %v", err)
	}
	skew := before.Sub(theirs).Abs()
	const fix = "run chrony or systemd-timesyncd on both"
	switch {
	case skew >= brokenSkew:
		return a.fail(who, fix, "%s apart: certificates, tokens and leases will fail", skew.Round(time.Second))
	case skew > wornSkew:
		return a.warn(who, fix, "%s apart", skew.Round(time.Second))
	}
	return a.ok(who, "together, as well as whole seconds tell")
}

// besideRPC is the HTTP address of the server at an RPC address, by this agent's scheme and port.
func besideRPC(rpc, agent string) string {
	host, _, err := net.SplitHostPort(rpc)
	u, parseErr := url.Parse(agent)
	if err != nil || parseErr != nil || u.Port() == "" {
		return ""
	}
	u.Host, u.Path = net.JoinHostPort(host, u.Port()), ""
	return u.String()
}
