package egress

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
)

// target is something that a task tries to reach.
type target struct {
	network, address string
	port             int
}

func newNetwork(t *testing.T, change func(*Config)) *Network {
	t.Helper()
	c := Config{
		Owner: t.Name(), Resolvers: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(resolver)} }, Rate: 10_000,
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Name: t.Name()}),
	}
	if change != nil {
		change(&c)
	}
	n := New(c)
	t.Cleanup(n.Close)
	must.NoError(t, n.Ensure())
	return n
}

func take(t *testing.T, n *Network) (*place, netip.Addr) {
	t.Helper()
	ns, err := n.Take(t.Name())
	must.NoError(t, err)
	t.Cleanup(ns.Close)
	return of(t, ns), ns.Address
}

// reachable are the targets that answer, asked all at once from a place.
func reachable(p *place, targets []target, patience time.Duration) map[target]bool {
	var mu sync.Mutex
	var wg sync.WaitGroup
	found := map[target]bool{}
	for _, one := range targets {
		wg.Go(func() {
			p.do(func() {
				err := reach(one.network, one.address, one.port, patience)
				mu.Lock()
				defer mu.Unlock()
				found[one] = err == nil
			})
		})
	}
	wg.Wait()
	return found
}

const (
	patient = time.Minute     // for what must answer
	brief   = 3 * time.Second // for what must not
)

func none(t *testing.T, p *place, targets []target) {
	t.Helper()
	must.SliceEmpty(t, split(reachable(p, targets, brief), true), must.Sprint("forbidden, and reached"))
}

func all(t *testing.T, p *place, targets []target) {
	t.Helper()
	must.SliceEmpty(t, split(reachable(p, targets, patient), false), must.Sprint("not reached"))
}

func split(found map[target]bool, answered bool) []target {
	var list []target
	for one, ok := range found {
		if ok == answered {
			list = append(list, one)
		}
	}
	return list
}

// forbiddenTargets are what no task may reach: more than sixty, each by an address that answers when no wall is there.
func forbiddenTargets(gateway, otherTask netip.Addr) []target {
	var list []target
	for _, a := range elsewhere {
		address := netip.MustParseAddr(a)
		inRange := false
		for _, p := range forbidden() {
			inRange = inRange || p.Contains(address)
		}
		if address.Is6() || inRange {
			list = append(list, target{"tcp", a, webPort})
		}
	}
	for _, a := range []string{lanHost, publicHost, annexHost, bridgeHost, annexServer, gateway.String(), otherTask.String(), "fd00:1::2"} {
		list = append(list, target{"tcp", a, webPort}, target{"udp", a, webPort}, target{"icmp", a, 0})
	}
	for _, a := range []string{"169.254.169.254", "192.168.1.10", "10.1.2.3", "100.100.100.200"} {
		list = append(list, target{"tcp", "::ffff:" + a, webPort}, target{"udp", a, webPort}, target{"icmp", a, 0}, target{"tcp", a, 53}, target{"udp", a, 53})
	}
	for _, port := range smtp() {
		list = append(list, target{"tcp", "8.8.8.8", int(port)}, target{"tcp", resolver, int(port)})
	}
	return append(list,
		target{"tcp", resolver, webPort}, target{"udp", resolver, webPort}, target{"icmp", resolver, 0},
		target{"tcp", "::ffff:" + publicHost, webPort}, target{"icmp", "2606:4700:4700::1111", 0}, target{"udp", "2606:4700:4700::1111", 53},
	)
}

func allowedTargets() []target {
	list := []target{
		{"tcp", resolver, 53},
		{"udp", resolver, 53},
		{"tcp", "::ffff:8.8.8.8", webPort},
		{"udp", "8.8.8.8", webPort},
		{"udp", "1.1.1.1", 53},
		{"tcp", "1.1.1.1", 53},
		{"icmp", "8.8.8.8", 0},
		{"udp", "1.1.1.1", 25},
	}
	for _, a := range elsewhere {
		address := netip.MustParseAddr(a)
		public := address.Is4()
		for _, p := range forbidden() {
			public = public && !p.Contains(address)
		}
		if public {
			list = append(list, target{"tcp", a, webPort})
		}
	}
	return list
}

// openIPv6 gives a task behind an interface what it rarely has: IPv6, with routes to everywhere and back.
func (w *world) openIPv6(t *testing.T, p *place, name string) {
	t.Helper()
	sysctl(t, "ipv6/conf/all/forwarding", "1")
	sysctl(t, "ipv6/conf/"+name+"/disable_ipv6", "0")
	p.do(func() { sysctl(t, "ipv6/conf/"+inside+"/disable_ipv6", "0") })
	up(t, w.host, name, "fd01::1/64", "fe80::1/64")
	up(t, p.Handle, inside, "fd01::2/64")
	route(t, p.Handle, "::/0", "fd01::1")
	route(t, w.router.Handle, "fd01::/64", "fd00:1::2")
}

func TestRootNothingNearIsReached(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		ns, err := n.Take("alloc-web-0123")
		must.NoError(t, err)
		t.Cleanup(ns.Close)
		task := of(t, ns)
		w.openIPv6(t, task, ns.link.Attrs().Name)
		other, otherAddress := take(t, n)
		other.do(func() { serve(t, webPort) })

		gateway := ns.Address.Prev()
		closed := append(forbiddenTargets(gateway, otherAddress), target{"tcp", "fd01::1", webPort}, target{"tcp", "fe80::1", webPort})
		must.Greater(t, 60, len(closed))
		t.Logf("%d forbidden targets, %d allowed", len(closed), len(allowedTargets()))

		t.Run("both walls", func(t *testing.T) {
			none(t, task, closed)
			all(t, task, allowedTargets())
		})
		t.Run("a name that is bound to an address of the LAN", func(t *testing.T) {
			address := task.resolve(t, "rebind.example.")
			must.Eq(t, "192.168.1.10", address)
			none(t, task, []target{{"tcp", address, webPort}})
		})
		t.Run("the host's wall alone", func(t *testing.T) {
			task.flush()
			none(t, task, closed)
			all(t, task, allowedTargets())
		})
		// Without the host's wall nothing translates addresses, so the router must know the way back.
		route(t, w.router.Handle, n.pool.String(), lanHost)
		sysctl(t, "ipv4/conf/eth1/forwarding", "1")
		t.Run("the task's wall alone", func(t *testing.T) {
			fresh, err := n.Take("fresh")
			must.NoError(t, err)
			t.Cleanup(fresh.Close)
			flushRules(t)
			p := of(t, fresh)
			// Others and IPv6 are as before, on the first task's interface.
			none(t, p, append(forbiddenTargets(fresh.Address.Prev(), otherAddress), target{"tcp", gateway.String(), webPort}))
			all(t, p, allowedTargets())
		})
		t.Run("no wall", func(t *testing.T) {
			other.flush()
			all(t, task, closed)
			all(t, task, allowedTargets())
		})
		t.Run("the host's wall is put back", func(t *testing.T) {
			must.NoError(t, n.Ensure())
			none(t, task, closed)
			all(t, task, allowedTargets())
		})
	})
}

// resolve asks the task's resolver for a name.
func (p *place) resolve(t *testing.T, name string) string {
	t.Helper()
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	request, err := question.Pack()
	must.NoError(t, err)
	var reply dnsmessage.Message
	p.do(func() {
		conn, err := net.Dial("udp", resolver+":53")
		must.NoError(t, err)
		defer conn.Close()
		must.NoError(t, conn.SetDeadline(time.Now().Add(patient)))
		_, err = conn.Write(request)
		must.NoError(t, err)
		buffer := make([]byte, 1500)
		length, err := conn.Read(buffer)
		must.NoError(t, err)
		must.NoError(t, reply.Unpack(buffer[:length]))
	})
	must.Len(t, 1, reply.Answers)
	body, ok := reply.Answers[0].Body.(*dnsmessage.AResource)
	must.True(t, ok)
	return netip.AddrFrom4(body.A).String()
}

func TestRootExceptions(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) {
			for _, text := range []string{"10.0.5.0/24:8080", "192.168.1.10", "8.8.8.8:587"} {
				e, err := ParseException(text)
				must.NoError(t, err)
				c.Allow = append(c.Allow, e)
			}
			c.Deny, c.Rate = []netip.Prefix{netip.MustParsePrefix("1.1.1.0/24")}, 100
		})
		task, _ := take(t, n)
		all(t, task, []target{
			{"tcp", "10.0.5.7", webPort}, {"udp", "10.0.5.7", webPort}, {"tcp", "192.168.1.10", webPort}, {"tcp", "192.168.1.10", 25}, {"icmp", "192.168.1.10", 0}, {"tcp", "8.8.8.8", 587},
		})
		none(t, task, []target{{"tcp", "10.0.5.7", 53}, {"tcp", "10.1.2.3", webPort}, {"tcp", "192.168.1.1", webPort}, {"tcp", "1.1.1.1", webPort}, {"tcp", "8.8.8.8", 25}})
	})
}

func TestRootNothingGetsIn(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		task, address := take(t, n)
		task.do(func() { serve(t, webPort) })
		route(t, w.router.Handle, n.pool.String(), lanHost)
		here := &place{t: t, file: ownNamespace(t)}
		inward := []target{{"tcp", address.String(), webPort}, {"udp", address.String(), webPort}, {"icmp", address.String(), 0}}
		for _, p := range []*place{w.router, w.annex, here} {
			p.do(func() { sysctl(t, "ipv4/ping_group_range", "0 2147483647") })
			none(t, p, inward)
		}
		sysctl(t, "ipv4/conf/eth1/forwarding", "1")
		flushRules(t)
		task.flush()
		for _, p := range []*place{w.router, w.annex, here} {
			all(t, p, inward)
		}
	})
}

func TestRootForgedSource(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		task, address := take(t, n)
		arrivals := w.router.receive(t, discardPort)
		cases := []struct{ name, source string }{
			{"its own", address.String()},
			{"the host's", lanHost},
			{"a neighbour's in the LAN", "192.168.1.77"},
			{"another task's", address.Next().Next().String()},
			{"its gateway's", address.Prev().String()},
			{"somebody's", "9.9.9.9"},
		}
		for _, c := range cases {
			task.sendRaw(t, c.source, "8.8.8.8")
		}
		must.True(t, arrives(arrivals, true), must.Sprint("its own"))
		must.False(t, arrives(arrivals, false), must.Sprint("a forged source got out"))
		flushRules(t)
		for _, c := range cases {
			if c.source == lanHost || c.source == address.Prev().String() {
				continue // the kernel itself drops what claims to come from the host
			}
			task.sendRaw(t, c.source, "8.8.8.8")
			must.True(t, arrives(arrivals, true), must.Sprint("no wall: ", c.name))
		}
	})
}

// A host that was no router before does not become its neighbours' router.
func TestRootHostIsNoRouter(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		route(t, w.router.Handle, "150.1.1.0/24", lanHost)
		arrivals := w.annex.receive(t, discardPort)
		w.router.sendRaw(t, lanRouter, annexServer)
		must.False(t, arrives(arrivals, false))

		sysctl(t, "ipv4/ip_forward", "1")
		must.NoError(t, n.Ensure())
		w.router.sendRaw(t, lanRouter, annexServer)
		must.True(t, arrives(arrivals, true), must.Sprint("the owner has made this host a router"))
	})
}

func TestRootMulticastAndBroadcast(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, nil)
		ns, err := n.Take("x")
		must.NoError(t, err)
		t.Cleanup(ns.Close)
		task := of(t, ns)
		here := &place{t: t, file: ownNamespace(t)}
		arrivals := here.receive(t, 5353, ns.link.Attrs().Index)
		for _, wall := range []bool{true, false} {
			for _, a := range []string{"224.0.0.251", "255.255.255.255"} {
				if !wall {
					flushRules(t)
					task.flush()
				}
				task.do(func() { _ = reach("udp", a, 5353, time.Millisecond) })
				must.Eq(t, !wall, arrives(arrivals, !wall), must.Sprint(a, wall))
			}
		}
	})
}

// All tasks together can't fill the table of connections that the host itself needs.
func TestRootConnectionsOfAllTasks(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) { c.Connections, c.tracked = 10, 64 })
		var open []net.Conn
		var last *place
		for _, count := range []int{10, 10, 10, 2} {
			last, _ = take(t, n)
			last.do(func() {
				for range count {
					conn, err := net.DialTimeout("tcp", "8.8.8.8:8080", patient)
					must.NoError(t, err)
					open = append(open, conn)
				}
			})
		}
		last.do(func() {
			must.Error(t, reach("tcp", "8.8.8.8", webPort, brief), must.Sprint("the 33rd of all, this task's third"))
		})
		for _, conn := range open {
			_, err := conn.Read(make([]byte, 5))
			must.NoError(t, err, must.Sprint("what is open goes on"))
			must.NoError(t, conn.(*net.TCPConn).SetLinger(0)) // the kernel forgets what was reset at once
			conn.Close()
		}
		last.do(func() { must.NoError(t, reach("tcp", "8.8.8.8", webPort, patient)) })
	})
}

func TestShares(t *testing.T) {
	for _, c := range []struct{ tracked, connections, lists, each uint32 }{
		{262144, 2048, 16, 8192},
		{1 << 20, 2048, 64, 8192},
		{1 << 24, 2048, 64, 131072},
		{65536, 2048, 4, 8192},
		{8192, 2048, 1, 4096},
		{262144, 1 << 20, 1, 131072},
		{1, 2048, 1, 1},
	} {
		lists, each := Config{Connections: c.connections}.shares(c.tracked)
		must.Eq(t, c.lists, lists)
		must.Eq(t, c.each, each)
		must.LessEq(t, max(1, c.tracked/2), lists*each)
	}
}

func TestRootConnectionCaps(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) { c.Connections, c.Rate = 5, 1 })
		task, _ := take(t, n)
		other, _ := take(t, n)
		task.do(func() {
			var open []net.Conn
			for range 5 {
				conn, err := net.DialTimeout("tcp", "8.8.8.8:8080", patient)
				must.NoError(t, err)
				open = append(open, conn)
			}
			must.Error(t, reach("tcp", "8.8.8.8", webPort, brief), must.Sprint("a sixth connection"))
			for _, conn := range open {
				_, err := conn.Read(make([]byte, 5))
				must.NoError(t, err, must.Sprint("the five go on"))
				conn.Close()
			}
		})
		other.do(func() {
			must.NoError(t, reach("tcp", "8.8.8.8", webPort, patient), must.Sprint("each task has a bound of its own"))
			// An answer to each of these would take 250 new connections at once; 10 are in reserve.
			answered := 0
			for range 200 {
				conn, err := net.Dial("udp", "8.8.8.8:9")
				must.NoError(t, err)
				_, _ = conn.Write([]byte("x"))
				conn.Close()
			}
			for range 50 {
				if reach("icmp", "1.1.1.1", 0, 10*time.Millisecond) == nil {
					answered++
				}
			}
			must.Less(t, 50, answered)
		})
	})
}

func TestRootNamespaceEndsWithItsLastHolder(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		ns, err := n.Take("alloc-web-0123")
		must.NoError(t, err)
		link, err := w.host.LinkByName(ns.link.Attrs().Name)
		must.NoError(t, err)
		must.Eq(t, "alloc-web-0123", link.Attrs().Alias)
		must.Eq(t, 1400, link.Attrs().MTU, must.Sprint("the uplink's"))
		place := t.TempDir() + "/netns"
		must.NoError(t, ns.Attach(place))
		ns.Close()
		must.Positive(t, len(pairs(t, w.host)))
		must.NoError(t, Detach(place))
		must.NoError(t, Detach(place), must.Sprint("it may be repeated"))
		gone(t, w.host)

		n.Warm()
		must.Eq(t, 1, len(pairs(t, w.host)))
		n.Close()
		gone(t, w.host)
	})
}

func pairs(t *testing.T, h *netlink.Handle) []string {
	t.Helper()
	links, err := h.LinkList()
	must.NoError(t, err)
	var names []string
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "pg") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

func gone(t *testing.T, h *netlink.Handle) {
	t.Helper()
	for deadline := time.Now().Add(patient); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if len(pairs(t, h)) == 0 {
			return
		}
	}
	must.SliceEmpty(t, pairs(t, h))
}

func TestRootTwoDriversOnOneHost(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		a := newNetwork(t, func(c *Config) { c.Owner = "a" })
		b := newNetwork(t, func(c *Config) { c.Owner = "b" })
		must.Eq(t, a.pool, b.pool)
		taskA, addressA := take(t, a)
		b.slot = a.slot - 1
		taskB, addressB := take(t, b)
		must.NotEq(t, addressA, addressB)
		taskA.do(func() { serve(t, webPort) })
		none(t, taskB, []target{{"tcp", addressA.String(), webPort}, {"tcp", addressA.Prev().String(), webPort}})
		all(t, taskA, allowedTargets())
		all(t, taskB, allowedTargets())

		// The rules of one are written anew, and the other's don't change.
		again := newNetwork(t, func(c *Config) { c.Owner, c.Deny = "a", []netip.Prefix{netip.MustParsePrefix("1.1.1.1/32")} })
		none(t, taskA, []target{{"tcp", "1.1.1.1", webPort}})
		all(t, taskB, allowedTargets())
		taskC, addressC := take(t, again)
		must.NotEq(t, addressA, addressC)
		all(t, taskC, []target{{"tcp", "8.8.8.8", webPort}})
	})
}

func TestRootNoWayOutFailsClosed(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		up(t, w.host, "eth1", "10.9.0.1/16")
		n := New(Config{Owner: t.Name(), Subnet: netip.MustParsePrefix("10.9.8.0/24")})
		t.Cleanup(n.Close)
		must.ErrorContains(t, n.Ensure(), "set subnet")
		_, err := n.Take("x")
		must.ErrorIs(t, err, ErrNoWayOut)
		n.Warm()
		must.SliceEmpty(t, pairs(t, w.host))

		link, err := w.host.LinkByName("eth1")
		must.NoError(t, err)
		must.NoError(t, w.host.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.MustParseAddr("10.9.0.1"), 16)}))
		task, _ := take(t, n)
		all(t, task, []target{{"tcp", "8.8.8.8", webPort}})
	})
}

// TestRootLargeSubnet takes from the far end of a range with more addresses than an interface's name can number.
func TestRootLargeSubnet(t *testing.T) {
	inHost(t, func(t *testing.T) {
		newWorld(t)
		n := newNetwork(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("10.0.0.0/8") })
		n.slot = 1<<23 - 3
		task, address := take(t, n)
		must.True(t, n.conf.Subnet.Contains(address))
		all(t, task, []target{{"tcp", "8.8.8.8", webPort}})
	})
}

// A laptop that changes networks gets a wall that fits.
func TestRootHostMoves(t *testing.T) {
	inHost(t, func(t *testing.T) {
		w := newWorld(t)
		n := newNetwork(t, nil)
		task, _ := take(t, n)
		all(t, task, []target{{"tcp", "8.8.8.8", webPort}})
		up(t, w.host, "eth0", "8.8.4.4/16") // the new LAN has public addresses
		must.NoError(t, n.Ensure())
		none(t, task, []target{{"tcp", "8.8.8.8", webPort}})
		all(t, task, []target{{"tcp", "1.1.1.1", webPort}})
	})
}
