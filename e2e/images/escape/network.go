package main

import (
	"errors"
	"net"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network are attempts at sockets below TCP and UDP and at the task's own network.
func (h *host) network() []attempt {
	var list []attempt
	for _, s := range []struct {
		name                   string
		family, kind, protocol int
	}{
		{"a packet socket", unix.AF_PACKET, unix.SOCK_RAW, 0},
		{"a raw IPv4 socket", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{"a raw IPv6 socket", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{"a socket to the hypervisor", unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		{"a socket past the stack", unix.AF_XDP, unix.SOCK_RAW, 0},
		{"a socket to the kernel's keys", unix.AF_KEY, unix.SOCK_RAW, 2},
		{"a socket to the kernel's ciphers", unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
	} {
		list = append(list, attempt{s.name, func() error { _, err := unix.Socket(s.family, s.kind|unix.SOCK_CLOEXEC, s.protocol); return err }})
	}
	for _, o := range []struct {
		name                 string
		level, option, value int
	}{
		{"mark packets", unix.SOL_SOCKET, unix.SO_MARK, 1},
		{"take more buffers", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1 << 20},
		{"go before others", unix.SOL_SOCKET, unix.SO_PRIORITY, 7},
		{"speak for others", unix.SOL_IP, unix.IP_TRANSPARENT, 1},
	} {
		list = append(list, attempt{o.name, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			return errors.Join(err, unix.SetsockoptInt(fd, o.level, o.option, o.value))
		}})
	}
	return append(list, []attempt{
		{"reach the host's abstract socket", func() error { return dial("unix", "@"+h.Token) }},
		{"set an interface up", onLoopback(netlink.LinkSetUp)},
		{"add an address", onLoopback(func(l netlink.Link) error {
			address, err := netlink.ParseAddr("192.0.2.99/32")
			return errors.Join(err, netlink.AddrReplace(l, address))
		})},
		{"add a route", onLoopback(func(l netlink.Link) error {
			_, to, err := net.ParseCIDR("198.51.100.99/32")
			return errors.Join(err, netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}))
		})},
		{"add a bridge", func() error {
			return past(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "escape"}}), unix.EEXIST)
		}},
		{"add rules for packets", func() error {
			var c nftables.Conn
			c.AddTable(&nftables.Table{Name: "escape", Family: nftables.TableFamilyINet})
			return c.Flush()
		}},
	}...)
}

// neighbours are attempts to reach whom only the host may reach, and the host.
func (h *host) neighbours() []attempt {
	list := []attempt{
		{"the host's loopback", func() error { return dial("tcp", "127.0.0.1:"+h.Port) }},
		{"the next hop", func() error {
			routes, err := netlink.RouteGet(net.IPv4(8, 8, 8, 8))
			if err != nil {
				return err
			}
			err = dial("tcp", net.JoinHostPort(routes[0].Gw.String(), h.Port))
			if err != nil {
				err = dial("tcp", net.JoinHostPort(routes[0].Gw.String(), "8080"))
			}
			return err
		}},
	}
	for _, address := range h.Near {
		list = append(list, attempt{address, func() error { return dial("tcp", address) }})
	}
	return list
}

func dial(network, address string) error {
	conn, err := net.DialTimeout(network, address, 2*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

func onLoopback(change func(netlink.Link) error) func() error {
	return func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return change(lo)
	}
}
