package addresses

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is what a namespace had.
type Network struct {
	// Path is the namespace's file, and Inode which one it was: the path may be taken by another later.
	Path  string `json:"path"`
	Inode uint64 `json:"inode"`
	Links []Link `json:"links,omitempty"`
}

// Link is one interface.
type Link struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Routes    []Route  `json:"routes,omitempty"`
}

// Route is a route that does not come with an address.
type Route struct {
	Destination string `json:"destination,omitempty"`
	Gateway     string `json:"gateway,omitempty"`
	Source      string `json:"source,omitempty"`
	Scope       uint8  `json:"scope,omitempty"`
	Table       int    `json:"table,omitempty"`
	Priority    int    `json:"priority,omitempty"`
	Flags       int    `json:"flags,omitempty"`
	MTU         int    `json:"mtu,omitempty"`
}

// Read reads what a namespace has on the interfaces that gVisor would take over.
func Read(path string) (*Network, error) {
	handle, inode, err := enter(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the network namespace: %w", err)
	}
	defer handle.Close()
	n := &Network{Path: path, Inode: inode}
	links, err := handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list the namespace's interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		link, err := readLink(handle, l)
		if err != nil {
			return nil, fmt.Errorf("cannot read interface %s: %w", l.Attrs().Name, err)
		}
		if len(link.Addresses) > 0 {
			n.Links = append(n.Links, link)
		}
	}
	return n, nil
}

// enter opens a namespace without moving a thread to it for longer than it takes to make a socket.
func enter(path string) (*netlink.Handle, uint64, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = ns.Close() }()
	var st unix.Stat_t
	err = unix.Fstat(int(ns), &st)
	if err != nil {
		return nil, 0, err
	}
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	return handle, st.Ino, err
}

func readLink(handle *netlink.Handle, l netlink.Link) (Link, error) {
	link := Link{Name: l.Attrs().Name}
	addresses, err := handle.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return link, err
	}
	for _, a := range addresses {
		link.Addresses = append(link.Addresses, a.IPNet.String())
	}
	routes, err := handle.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return link, err
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			// It comes with its address.
			continue
		}
		link.Routes = append(link.Routes, Route{
			Destination: text(r.Dst), Gateway: ip(r.Gw), Source: ip(r.Src),
			Scope: uint8(r.Scope), Table: r.Table, Priority: r.Priority, Flags: r.Flags, MTU: r.MTU,
		})
	}
	return link, nil
}

func text(n *net.IPNet) string {
	if n == nil {
		return ""
	}
	return n.String()
}

func ip(a net.IP) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// Restore gives the namespace back what it had. A namespace that is gone needs nothing.
func (n *Network) Restore() error {
	handle, inode, err := enter(n.Path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil // unmounted, with or without its file
	}
	if err != nil {
		return fmt.Errorf("cannot open the network namespace: %w", err)
	}
	defer handle.Close()
	if inode != n.Inode {
		return nil
	}
	for _, l := range n.Links {
		err := restoreLink(handle, l)
		if err != nil {
			return fmt.Errorf("cannot give interface %s its addresses back: %w", l.Name, err)
		}
	}
	return nil
}

func restoreLink(handle *netlink.Handle, l Link) error {
	link, err := handle.LinkByName(l.Name)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, text := range l.Addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		// Nobody else can have come to have it meanwhile, so IPv6 need not ask around first.
		address.Flags = unix.IFA_F_NODAD
		err = handle.AddrReplace(link, address)
		if err != nil {
			return err
		}
	}
	for _, r := range l.Routes {
		route, err := r.route(link.Attrs().Index)
		if err != nil {
			return err
		}
		err = handle.RouteReplace(route)
		if err != nil {
			return err
		}
	}
	return nil
}

func (r Route) route(link int) (*netlink.Route, error) {
	route := &netlink.Route{
		LinkIndex: link, Gw: net.ParseIP(r.Gateway), Src: net.ParseIP(r.Source),
		Scope: netlink.Scope(r.Scope), Table: r.Table, Priority: r.Priority, Flags: r.Flags, MTU: r.MTU,
	}
	if r.Destination == "" {
		return route, nil
	}
	_, destination, err := net.ParseCIDR(r.Destination)
	route.Dst = destination
	return route, err
}
