package registry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// refused are the addresses that no registry of the public internet has: the owner's network, this host, what a
// cloud tells its machines about themselves. A job that names one, or whose registry redirects to one, would have
// the host ask for it with the host's rights.
func refused() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4",
		"168.63.129.16/32",                        // Azure's metadata, at an address that looks public
		"2001::/23", "2001:db8::/32", "3fff::/20", // Teredo and others; examples
		"2002::/16", // 6to4, which carries any IPv4 address
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// public tells whether an address may be asked on behalf of a stranger.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.Is6() && !netip.MustParsePrefix("2000::/3").Contains(a) {
		return false // link-local, unique local, loopback, NAT64 (which carries any IPv4 address), multicast
	}
	return !slices.ContainsFunc(refused(), func(p netip.Prefix) bool { return p.Contains(a) }) && !ours(a)
}

// ours tells whether this host has the address: what listens there may trust what comes from the host.
func ours(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(own net.Addr) bool {
		p, err := netip.ParsePrefix(own.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// names are the registries that the operator named, as host:port. They may be at any address.
type names map[string]bool

func (n names) add(hosts ...string) {
	for _, h := range hosts {
		host, port, err := net.SplitHostPort(h)
		if err == nil {
			n[net.JoinHostPort(strings.ToLower(host), port)] = true
			continue
		}
		host = strings.ToLower(strings.Trim(h, "[]"))
		n[net.JoinHostPort(host, "443")], n[net.JoinHostPort(host, "80")] = true, true
	}
}

// has takes a registry, with or without a port, or an address to dial.
func (n names) has(host string) bool {
	one := names{}
	one.add(host)
	for addr := range one {
		if !n[addr] {
			return false
		}
	}
	return true
}

// dialer connects to public addresses and to the registries in free. It looks at the address that the name has
// turned into, and so also past a name server that gives another answer each time.
func dialer(free names) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	guarded := *plain
	guarded.Control = func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil || !public(a.Addr()) {
			return ErrPrivate
		}
		return nil
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if free.has(addr) {
			return plain.DialContext(ctx, network, addr)
		}
		return guarded.DialContext(ctx, network, addr)
	}
}

// network is what one kind of registry is reached by.
type network struct {
	free            names
	direct, proxied *http.Transport
	proxy           func(*http.Request) (*url.URL, error)
}

func newNetwork(free names, stall time.Duration, proxy func(*http.Request) (*url.URL, error)) *network {
	n := &network{free: free, direct: newBase(stall), proxy: proxy}
	n.direct.DialContext = dialer(free)
	n.proxied = newBase(stall)
	n.proxied.Proxy = proxy
	return n
}

func (n *network) close() {
	n.direct.CloseIdleConnections()
	n.proxied.CloseIdleConnections()
}

// RoundTrip sends a request. Behind a proxy only the proxy's address is dialled, so that the target's is looked up
// before; a name that this host cannot resolve is the proxy's to judge.
func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := n.proxy(req)
	if err == nil && proxy == nil {
		return n.direct.RoundTrip(req)
	}
	if !n.free.has(req.URL.Host) && !resolvesPublic(req.Context(), req.URL.Hostname()) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, ErrPrivate
	}
	return n.proxied.RoundTrip(req)
}

func resolvesPublic(ctx context.Context, host string) bool {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return true
	}
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !public(a) })
}
