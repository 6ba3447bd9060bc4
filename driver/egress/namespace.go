package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"pangaea/driver/thread"
)

// inside is the name of a task's interface in its own namespace.
const inside = "eth0"

// Namespace is a network namespace with a way out. It lives while it is held: by this value until Close, by whatever
// runs in it, and by the places that Attach has mounted it at.
type Namespace struct {
	// Address is the task's.
	Address netip.Addr

	file  *os.File
	link  netlink.Link // the host's end
	route *netlink.Handle
}

// settings of a namespace's own. A task needs no privilege to serve port 80 or to ping: nothing in it is anyone else's.
// Groups are counted in the host's numbers here, because the namespace belongs to the host's users.
var settings = map[string]string{
	"ipv4/ip_unprivileged_port_start": "0",
	"ipv4/ping_group_range":           "0 2147483647",
	"ipv6/conf/default/disable_ipv6":  "1",
}

// hostSettings are those of the host's end of a pair.
var hostSettings = map[string]string{
	"ipv6/conf/%s/disable_ipv6":   "1",
	"ipv4/conf/%s/forwarding":     "1",
	"ipv4/conf/%s/send_redirects": "0",
}

// make makes a namespace, with its wall in force before there is a way out of it.
func (n *Network) make(h host) (*Namespace, error) {
	ns := &Namespace{}
	var err error
	thread.Throwaway(func() { err = ns.open(n, h) })
	if err == nil {
		err = n.connect(ns, h)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// open moves the calling thread to a new namespace and prepares that.
func (ns *Namespace) open(n *Network, h host) error {
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	ns.file, err = os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("cannot hold the network namespace: %w", err)
	}
	for name, value := range settings {
		err = set(name, value)
		if err != nil {
			return err
		}
	}
	ns.route, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot configure the network namespace: %w", err)
	}
	loopback, err := ns.route.LinkByIndex(1)
	if err == nil {
		err = ns.route.LinkSetUp(loopback)
	}
	if err != nil {
		return fmt.Errorf("cannot bring up the task's loopback interface: %w", err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	return n.innerWall(conn, h).write()
}

// set writes a setting of the calling thread's network. A kernel without IPv6 has none of that.
func set(name, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot set net/%s: %w", name, err)
	}
	return nil
}

// connect lays the pair, at the first slot of the pool that is free. A slot is free if its interface has no namesake
// and its address no route: the kernel decides both in one step, also between drivers.
func (n *Network) connect(ns *Namespace, h host) error {
	all := slots(n.pool)
	for range all {
		n.slot = (n.slot + 1) % all
		err := n.lay(ns, n.slot, h)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		return err
	}
	return fmt.Errorf("cannot find a free address for the task: all %d of %s are in use", all, n.pool)
}

func (n *Network) lay(ns *Namespace, slot uint32, h host) error {
	gateway, address := pair(n.pool, slot)
	name := n.conf.interfaces() + strconv.FormatUint(uint64(slot), 10)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: h.mtu, TxQLen: -1},
		PeerName:  inside, PeerNamespace: netlink.NsFd(int(ns.file.Fd())),
	}
	err := n.route.LinkAdd(veth)
	if err != nil {
		return fmt.Errorf("cannot add interface %s: %w", name, err)
	}
	ns.link, ns.Address = veth, address
	err = n.configure(ns, gateway)
	if err != nil {
		// The namespace stays for the next slot, so the pair has to go.
		return errors.Join(err, n.route.LinkDel(veth))
	}
	return ns.configure(gateway)
}

// configure prepares the host's end.
func (n *Network) configure(ns *Namespace, gateway netip.Addr) error {
	name := ns.link.Attrs().Name
	for setting, value := range hostSettings {
		err := set(fmt.Sprintf(setting, name), value)
		if err != nil {
			return err
		}
	}
	err := n.route.AddrAdd(ns.link, &netlink.Addr{IPNet: ipNet(gateway, 32)})
	if err == nil {
		err = n.route.LinkSetUp(ns.link)
	}
	if err == nil {
		err = n.route.RouteAdd(&netlink.Route{LinkIndex: ns.link.Attrs().Index, Dst: ipNet(ns.Address, 32), Scope: netlink.SCOPE_LINK})
	}
	if err != nil {
		return fmt.Errorf("cannot configure interface %s: %w", name, err)
	}
	return nil
}

// configure prepares the task's end.
func (ns *Namespace) configure(gateway netip.Addr) error {
	link, err := ns.route.LinkByName(inside)
	if err == nil {
		err = ns.route.AddrAdd(link, &netlink.Addr{IPNet: ipNet(ns.Address, 31)})
	}
	if err == nil {
		err = ns.route.LinkSetUp(link)
	}
	if err == nil {
		err = ns.route.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("cannot configure the task's interface: %w", err)
	}
	ns.route.Close()
	ns.route = nil
	return nil
}

// Attach mounts the namespace at a path, where a runtime can join it. Detach undoes that.
func (ns *Namespace) Attach(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make a place for the network namespace: %w", err)
	}
	defer file.Close()
	err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.file.Fd()), path, "", unix.MS_BIND, "")
	if err != nil {
		return fmt.Errorf("cannot mount the network namespace: %w", err)
	}
	return nil
}

// Detach unmounts what Attach or another has mounted at a path, and is content if nothing is.
func Detach(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // mounted more than once
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("cannot unmount %s: %w", path, err)
		}
	}
}

// Close lets go of the namespace. It stays for as long as a task runs in it.
func (ns *Namespace) Close() {
	if ns == nil {
		return
	}
	if ns.route != nil {
		ns.route.Close()
	}
	if ns.file != nil {
		_ = ns.file.Close()
	}
}

// slots is how many tasks can have addresses of a pool: two each, and the name of an interface has room for six digits.
func slots(pool netip.Prefix) uint32 { return min(uint32(1)<<(31-pool.Bits()), 1_000_000) }

// pair are the two addresses of a slot: the host's end and the task's.
func pair(pool netip.Prefix, slot uint32) (gateway, address netip.Addr) {
	base := pool.Masked().Addr().As4()
	number := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	at := func(n uint32) netip.Addr {
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return at(number + 2*slot), at(number + 2*slot + 1)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
