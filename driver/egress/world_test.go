package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/shoenig/test/must"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"pangaea/driver/thread"
)

// The world of these tests is made of network namespaces. The process that runs a test stands in one of its own, which
// is the host; the machine's network is never touched.
//
//	task --pair-- host --eth0-- router ...  the LAN, the internet, a metadata service: whatever address lies behind it
//	              host --eth1-- annex       another network of the owner's, with public addresses
type world struct {
	router, annex *place
	host          *netlink.Handle
}

const (
	lanHost     = "192.168.1.2"
	lanRouter   = "192.168.1.1"
	publicHost  = "185.10.10.10" // of the host itself
	annexHost   = "150.1.1.1"
	annexServer = "150.1.1.7" // public, and the owner's own network
	bridgeHost  = "172.17.0.1"
	resolver    = "192.168.1.53"
	webPort     = 8080
	discardPort = 9999
)

// elsewhere are the addresses that lie behind the router.
var elsewhere = []string{
	"8.8.8.8", "1.1.1.1", "151.101.1.6", "223.255.255.254", "9.255.255.255", "11.0.0.1", "172.15.255.255", "172.32.0.1", "192.167.255.255", "198.17.255.255", "198.20.0.1", "100.63.255.255", "100.128.0.1", "169.253.255.255",
	"192.168.1.10", "192.168.1.53", "192.168.0.1", "192.168.255.254",
	"10.0.0.1", "10.1.2.3", "10.0.5.7", "10.255.255.254", "172.16.0.1", "172.20.1.1", "172.31.255.254",
	"100.64.0.1", "100.100.100.200", "100.127.255.254", "169.254.169.254", "169.254.170.2", "169.254.0.1",
	"0.1.2.3", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1", "255.255.255.254",
	"fd00:2::1", "fd00:ec2::254", "64:ff9b::a01:203", "64:ff9b:1::a01:203", "2002:c0a8:10a::1", "2001::1", "2001:db8::1", "2606:4700:4700::1111", "2001:4860:4860::8888",
}

// inHost runs the calling test again in a network namespace of its own, and its body only there.
func inHost(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	must.Zero(t, os.Geteuid(), must.Sprint("root tests must run as root"))
	if os.Getenv("PANGAEA_EGRESS_HOST") == t.Name() {
		body(t)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=14m")
	cmd.Env = append(os.Environ(), "PANGAEA_EGRESS_HOST="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	if testing.Verbose() {
		t.Log(string(out))
	}
}

// place is a network namespace of somebody's.
type place struct {
	t    *testing.T
	file *os.File
	*netlink.Handle
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t}
	var err error
	thread.Throwaway(func() {
		err = unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			return
		}
		p.file, err = os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return
		}
		p.Handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		sysctl(t, "ipv6/conf/all/accept_dad", "0")
		sysctl(t, "ipv6/conf/default/accept_dad", "0")
	})
	must.NoError(t, err)
	t.Cleanup(func() { p.Close(); p.file.Close() })
	up(t, p.Handle, "lo")
	return p
}

// of wraps a task's namespace.
func of(t *testing.T, ns *Namespace) *place {
	t.Helper()
	p := &place{t: t, file: ns.file}
	var err error
	p.do(func() { p.Handle, err = netlink.NewHandle(unix.NETLINK_ROUTE) })
	must.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// do runs f on a thread in the place.
func (p *place) do(f func()) {
	var err error
	thread.Throwaway(func() {
		err = unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
	})
	must.NoError(p.t, err)
}

func (p *place) flush() {
	p.do(func() { flushRules(p.t) })
}

func flushRules(t *testing.T) {
	conn, err := nftables.New()
	must.NoError(t, err)
	conn.FlushRuleset()
	must.NoError(t, conn.Flush())
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must.NoError(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}

func up(t *testing.T, h *netlink.Handle, name string, addrs ...string) {
	t.Helper()
	link, err := h.LinkByName(name)
	must.NoError(t, err)
	for _, a := range addrs {
		address, err := netlink.ParseAddr(a)
		must.NoError(t, err)
		address.Flags = unix.IFA_F_NODAD
		must.NoError(t, h.AddrAdd(link, address), must.Sprint(a))
	}
	must.NoError(t, h.LinkSetUp(link))
}

func route(t *testing.T, h *netlink.Handle, prefix, gateway string) {
	t.Helper()
	_, dst, err := net.ParseCIDR(prefix)
	must.NoError(t, err)
	must.NoError(t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}), must.Sprint(prefix))
}

// cable connects the host with a place.
func cable(t *testing.T, host *netlink.Handle, name string, p *place, far string) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = name, 1400
	must.NoError(t, host.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: far, PeerNamespace: netlink.NsFd(int(p.file.Fd()))}))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// A new namespace starts with what the machine's own says, which Nomad's bridge networks change.
	sysctl(t, "ipv4/ip_forward", "0")
	sysctl(t, "ipv6/conf/all/accept_dad", "0")
	sysctl(t, "ipv6/conf/default/accept_dad", "0")
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must.NoError(t, err)
	t.Cleanup(host.Close)
	w := &world{host: host, router: newPlace(t), annex: newPlace(t)}
	up(t, host, "lo", publicHost+"/32")
	cable(t, host, "eth0", w.router, "lan0")
	up(t, host, "eth0", lanHost+"/24", "fd00:1::2/64")
	up(t, w.router.Handle, "lan0", lanRouter+"/24", "fd00:1::9/64")
	for _, a := range elsewhere {
		address := netip.MustParseAddr(a)
		up(t, w.router.Handle, "lo", netip.PrefixFrom(address, address.BitLen()).String())
	}
	route(t, host, "0.0.0.0/0", lanRouter)
	route(t, host, "::/0", "fd00:1::9")
	route(t, w.router.Handle, publicHost+"/32", lanHost)
	cable(t, host, "eth1", w.annex, "far0")
	up(t, host, "eth1", annexHost+"/24", bridgeHost+"/24")
	up(t, w.annex.Handle, "far0", annexServer+"/24")
	route(t, w.annex.Handle, "0.0.0.0/0", annexHost)

	ports := []int{webPort, 53, 25, 465, 587}
	w.router.do(func() { serve(t, ports...) })
	w.annex.do(func() { serve(t, ports...) })
	serve(t, ports...)
	return w
}

// serve answers on TCP and UDP ports of the calling thread's network: names with a LAN's address, all else with itself.
func serve(t *testing.T, ports ...int) {
	t.Helper()
	for _, number := range ports {
		tcp := listen(t, unix.SOCK_STREAM, number)
		listener, err := net.FileListener(tcp)
		must.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		go func() {
			open := map[net.Conn]bool{}
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("hello"))
				open[conn] = true // or it would be closed as garbage
			}
		}()
		udp := listen(t, unix.SOCK_DGRAM, number)
		must.NoError(t, unix.SetsockoptInt(int(udp.Fd()), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
		packets, err := net.FilePacketConn(udp)
		must.NoError(t, err)
		t.Cleanup(func() { packets.Close() })
		go echo(packets.(*net.UDPConn))
	}
}

// echo answers from the address that it was asked at, which a host with many does not by itself.
func echo(conn *net.UDPConn) {
	buffer, control := make([]byte, 1500), make([]byte, 128)
	for {
		n, size, _, peer, err := conn.ReadMsgUDPAddrPort(buffer, control)
		if err != nil {
			return
		}
		if size == unix.CmsgSpace(unix.SizeofInet6Pktinfo) {
			clear(control[size-4 : size]) // any interface
		}
		_, _, _ = conn.WriteMsgUDPAddrPort(answer(buffer[:n]), control[:size], peer)
	}
}

// listen opens a socket for both families on the calling thread, which Go's own may not be.
func listen(t *testing.T, kind, number int) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
	must.NoError(t, err)
	must.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0))
	must.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must.NoError(t, unix.Bind(fd, &unix.SockaddrInet6{Port: number}))
	if kind == unix.SOCK_STREAM {
		must.NoError(t, unix.Listen(fd, 128))
	}
	file := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { file.Close() })
	return file
}

// answer is a DNS server whose every name leads into the LAN, for a rebinding attack.
func answer(request []byte) []byte {
	var m dnsmessage.Message
	err := m.Unpack(request)
	if err != nil || len(m.Questions) != 1 {
		return request
	}
	m.Response = true
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{A: netip.MustParseAddr("192.168.1.10").As4()},
	}}
	reply, err := m.Pack()
	if err != nil {
		return request
	}
	return reply
}

// errSilent says that nothing answered.
var errSilent = errors.New("nothing answered")

// reach tries to get an answer from an address, from the calling thread's network.
func reach(network, address string, number int, patience time.Duration) error {
	target := netip.MustParseAddr(address)
	family, kind, proto := unix.AF_INET6, unix.SOCK_DGRAM, 0
	if target.Is4() {
		family = unix.AF_INET
	}
	switch network {
	case "tcp":
		kind = unix.SOCK_STREAM
	case "icmp":
		proto = unix.IPPROTO_ICMP
		if family == unix.AF_INET6 {
			proto = unix.IPPROTO_ICMPV6
		}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: target.As16(), Port: number, ZoneId: zone(target)}
	if target.Is4() {
		to = &unix.SockaddrInet4{Addr: target.As4(), Port: number}
	}
	err = unix.Connect(fd, to)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if network != "tcp" {
		message := []byte("hello")
		if network == "icmp" {
			message = binary.BigEndian.AppendUint64(nil, uint64(map[bool]int{true: 8, false: 128}[target.Is4()])<<56)
		}
		_, err = unix.Write(fd, message)
		if err != nil {
			return err
		}
	}
	return await(fd, patience)
}

// zone is the index of the only cable, for addresses that need it.
func zone(a netip.Addr) uint32 {
	if !a.IsLinkLocalUnicast() || a.Is4() {
		return 0
	}
	link, err := net.InterfaceByName(inside)
	if err != nil {
		return 0
	}
	return uint32(link.Index)
}

func await(fd int, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return errSilent
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) || (err == nil && n == 0) {
			continue
		}
		if err != nil {
			return err
		}
		buffer := make([]byte, 64)
		n, err = unix.Read(fd, buffer)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the connection was closed: %w", errSilent)
		}
		return nil
	}
}

func ownNamespace(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open("/proc/self/ns/net")
	must.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

// receive counts datagrams to a port, also those to the group of mDNS if interfaces are named.
func (p *place) receive(t *testing.T, number int, interfaces ...int) <-chan struct{} {
	t.Helper()
	arrivals := make(chan struct{}, 100)
	p.do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must.NoError(t, err)
		must.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Port: number}))
		for _, index := range interfaces {
			must.NoError(t, unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: int32(index)}))
		}
		file := os.NewFile(uintptr(fd), "socket")
		packets, err := net.FilePacketConn(file)
		must.NoError(t, err)
		file.Close()
		t.Cleanup(func() { packets.Close() })
		go func() {
			for {
				_, _, err := packets.ReadFrom(make([]byte, 100))
				if err != nil {
					return
				}
				arrivals <- struct{}{}
			}
		}()
	})
	return arrivals
}

// arrives waits for a datagram: long if there should be one.
func arrives(arrivals <-chan struct{}, expected bool) bool {
	patience := brief
	if expected {
		patience = patient
	}
	select {
	case <-arrivals:
		return true
	case <-time.After(patience):
		return false
	}
}

// sendRaw sends a UDP datagram with whatever source address.
func (p *place) sendRaw(t *testing.T, source, target string) {
	t.Helper()
	const header, udp = 20, 8
	packet := make([]byte, header+udp)
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	copy(packet[12:], netip.MustParseAddr(source).AsSlice())
	copy(packet[16:], netip.MustParseAddr(target).AsSlice())
	binary.BigEndian.PutUint16(packet[header:], 1234)
	binary.BigEndian.PutUint16(packet[header+2:], discardPort)
	binary.BigEndian.PutUint16(packet[header+4:], udp)
	p.do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		must.NoError(t, err)
		defer func() { _ = unix.Close(fd) }()
		must.NoError(t, unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(target).As4()}))
	})
}
