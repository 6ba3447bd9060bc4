package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is what the walls depend on and may change while tasks run: a laptop joins another network.
type host struct {
	uplinks  []string       // interfaces of default routes
	near     []netip.Prefix // what a route of the host's own leads to: no internet, whatever its addresses
	own      []netip.Addr   // the host's addresses
	mtu      int            // the smallest of the uplinks'
	resolve  []netip.Addr   // who may be asked for names
	forwards bool           // the host as a whole is a router
	tracked  uint32         // how many connections the host keeps track of at most; 0 as long as it does not say
}

const (
	defaultMTU = 1500
	// maxNear bounds how much of a router's table the walls take over. One that knows the whole internet has no
	// default route either; of its table only what is attached to the host counts.
	maxNear = 1024
)

// ours matches the interfaces of all drivers of a host.
var ours = regexp.MustCompile(`^pg[0-9a-f]{6}-`)

func readHost(handle *netlink.Handle, resolvers []netip.Addr) (host, error) {
	h := host{mtu: defaultMTU, resolve: slices.DeleteFunc(slices.Clone(resolvers), func(a netip.Addr) bool { return !a.Is4() || a.IsLoopback() })}
	links, err := handle.LinkList()
	if err != nil {
		return h, fmt.Errorf("cannot list the host's interfaces: %w", err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	routes, err := handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return h, fmt.Errorf("cannot list the host's routes: %w", err)
	}
	h.follow(routes, byIndex)
	h.settle()
	h.own, err = addresses(handle, byIndex)
	text, readErr := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	h.forwards = strings.TrimSpace(string(text)) == "1"
	h.tracked = trackedConnections()
	return h, errors.Join(err, readErr)
}

// trackedConnections is the size of the table that all connections of the host share, 0 while the kernel has none: that is
// until the first rule that asks for a connection's state.
func trackedConnections() uint32 {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// follow sorts what the routes lead to into the internet and what is near.
func (h *host) follow(routes []netlink.Route, byIndex map[int]*netlink.LinkAttrs) {
	var far []netip.Prefix
	for _, r := range routes {
		for _, index := range exits(r) {
			link, known := byIndex[index]
			switch {
			case !known || ours.MatchString(link.Name):
			case toInternet(r):
				h.addUplink(link)
			case r.Scope == unix.RT_SCOPE_LINK:
				h.near = append(h.near, prefixOf(r.Dst))
			default:
				far = append(far, prefixOf(r.Dst))
			}
		}
	}
	if len(h.near)+len(far) <= maxNear {
		h.near = append(h.near, far...)
	}
}

// settle makes two readings of the same state equal.
func (h *host) settle() {
	slices.Sort(h.uplinks)
	h.uplinks = slices.Compact(h.uplinks)
	slices.SortFunc(h.near, func(a, b netip.Prefix) int { return a.Compare(b) })
	h.near = slices.Compact(h.near)
}

func (h *host) addUplink(link *netlink.LinkAttrs) {
	h.uplinks = append(h.uplinks, link.Name)
	if link.MTU >= 576 {
		h.mtu = min(h.mtu, link.MTU)
	}
}

// exits are the interfaces that a route leads out by.
func exits(r netlink.Route) []int {
	if len(r.MultiPath) == 0 {
		return []int{r.LinkIndex}
	}
	var list []int
	for _, hop := range r.MultiPath {
		list = append(list, hop.LinkIndex)
	}
	return list
}

// toInternet tells default routes, also those that a VPN writes as two halves to win over the other.
func toInternet(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones <= 1
}

func prefixOf(n *net.IPNet) netip.Prefix {
	address, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones).Masked()
}

func addresses(handle *netlink.Handle, byIndex map[int]*netlink.LinkAttrs) ([]netip.Addr, error) {
	list, err := handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range list {
		link, known := byIndex[a.LinkIndex]
		address, ok := netip.AddrFromSlice(a.IP)
		if known && ok && !ours.MatchString(link.Name) {
			own = append(own, address.Unmap())
		}
	}
	return own, nil
}

// forward lets what comes back from the internet pass on to the tasks.
func (h host) forward(log func(name string)) error {
	for _, name := range h.uplinks {
		place := filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding")
		text, err := os.ReadFile(place)
		if err != nil || strings.TrimSpace(string(text)) == "1" {
			continue // an interface that has just gone leads nowhere
		}
		err = os.WriteFile(place, []byte("1"), 0)
		if err != nil {
			return fmt.Errorf("cannot have %s forward for tasks: %w", name, err)
		}
		log(name)
	}
	return nil
}

// choosePool takes the operator's range, or the first of ours that the host has no other use for.
func choosePool(subnet netip.Prefix, h host) (netip.Prefix, error) {
	candidates := pools()
	if subnet.IsValid() {
		candidates = []netip.Prefix{subnet}
	}
	for _, pool := range candidates {
		used := func(p netip.Prefix) bool { return p.Overlaps(pool) }
		if !slices.ContainsFunc(h.near, used) && !slices.ContainsFunc(h.own, pool.Contains) {
			return pool, nil
		}
	}
	return netip.Prefix{}, errors.New("the host has routes to all addresses that tasks could have: set subnet in the driver's egress block")
}
