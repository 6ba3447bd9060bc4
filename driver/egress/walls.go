package egress

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	chainForged  = "forged"
	chainHost    = "to_host"
	chainFromUs  = "from_host"
	chainForward = "forward"
	chainTask    = "from_task"
	chainNAT     = "translate"

	innerTable = "pangaea"
)

const (
	established = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	dnsPort     = 53
	echoRequest = 8
)

// priority of our chains: before those of others, which decide after us and may still drop.
const priority = nftables.ChainPriority(-10)

// hostWall describes the wall in the host's namespace. It says something about the tasks' interfaces only, and about
// what neighbours would have the host forward for them.
func (n *Network) hostWall(conn *nftables.Conn, h host) *table {
	tasks := n.conf.interfaces()
	t := newTable(conn, n.conf.table())
	const others = nftables.ChainPolicyAccept
	t.chain(chainForged, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, others, when(from(tasks), forged(), drop()))
	t.chain(chainTask, nil, 0, 0, n.taskRules(t, h, drop())...)
	t.chain(chainForward, nftables.ChainHookForward, priority, others, n.forwardRules(tasks, h)...)
	t.chain(chainHost, nftables.ChainHookInput, priority, others, hostRules(tasks, h)...)
	t.chain(chainFromUs, nftables.ChainHookOutput, priority, others,
		when(to(tasks), state(established), accept()),
		when(to(tasks), drop()),
	)
	t.chain(chainNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, others,
		when(from(tasks), notTo(tasks), rule{&expr.Masq{FullyRandom: true}}),
	)
	return t
}

func (n *Network) forwardRules(tasks string, h host) []rule {
	rules := []rule{
		when(from(tasks), to(tasks), drop()),
		when(from(tasks), jump(chainTask)),
		when(to(tasks), state(established), accept()),
		when(to(tasks), drop()),
	}
	if h.forwards {
		return rules
	}
	// This host was no router, and its neighbours shall not use it as one now. What it publishes itself, as
	// container bridges do by translation, goes on to work.
	for _, name := range h.uplinks {
		rules = append(rules, when(from(name+"\x00"), ipv4(), state(expr.CtStateBitNEW), notTranslated(), drop()))
	}
	return rules
}

// hostRules let a task ask the host itself for names, if the host is its resolver, and nothing else.
func hostRules(tasks string, h host) []rule {
	rules := []rule{when(from(tasks), notIPv4(), drop())}
	for _, r := range h.resolverRules() {
		rules = append(rules, when(from(tasks), r, accept()))
	}
	return append(rules, when(from(tasks), drop()))
}

// taskRules decide about what a task sends out. The packets are IPv4 from the second rule on.
func (n *Network) taskRules(t *table, h host, deny rule) []rule {
	connections, rate := t.counter("connections"), t.counter("rate")
	rules := []rule{
		when(notIPv4(), deny),
		when(state(expr.CtStateBitINVALID), drop()),
		when(state(established), accept()),
		when(notProtocol(unix.IPPROTO_TCP), notProtocol(unix.IPPROTO_UDP), notProtocol(unix.IPPROTO_ICMP), deny),
		when(over(rate, &expr.Limit{
			Type: expr.LimitTypePkts, Rate: uint64(n.conf.Rate), Unit: expr.LimitTimeSecond, Burst: burst * n.conf.Rate, Over: true,
		}), deny),
		when(over(connections, &expr.Connlimit{Count: n.conf.Connections, Flags: expr.NFT_CONNLIMIT_F_INV}), deny),
	}
	if h.tracked > 0 {
		// All tasks together leave half of the host's table to the host. The kernel goes through a whole list of connections
		// for each new one, so they are counted in several lists, by the last bits of the task's slot.
		lists, each := n.conf.shares(h.tracked)
		all := t.counter("all")
		rules = append(rules, when(overOf(all, (lists-1)<<1, &expr.Connlimit{Count: each, Flags: expr.NFT_CONNLIMIT_F_INV}), deny))
	}
	rules = append(rules, n.exceptions(h)...)
	rules = append(rules, when(t.within(n.barred(h)), deny), when(notUnicast(), deny))
	for _, number := range smtp() {
		rules = append(rules, when(protocol(unix.IPPROTO_TCP), port(number), deny))
	}
	return append(rules,
		when(protocol(unix.IPPROTO_ICMP), icmpType(echoRequest), accept()),
		when(protocol(unix.IPPROTO_ICMP), deny),
		accept(),
	)
}

// barred is what no task reaches but by an exception.
func (n *Network) barred(h host) []netip.Prefix {
	return slices.Concat(forbidden(), n.conf.Deny, h.near, single(h.own))
}

// exceptions accept what is allowed although it is forbidden.
func (n *Network) exceptions(h host) []rule {
	var rules []rule
	for _, r := range h.resolverRules() {
		rules = append(rules, when(r, accept()))
	}
	for _, e := range n.conf.Allow {
		if e.Port == 0 {
			rules = append(rules, when(destination(e.Prefix), accept()))
			continue
		}
		for _, number := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			rules = append(rules, when(protocol(number), destination(e.Prefix), port(e.Port), accept()))
		}
	}
	return rules
}

func (h host) resolverRules() []rule {
	var rules []rule
	for _, a := range h.resolve {
		for _, number := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			rules = append(rules, when(protocol(number), destination(netip.PrefixFrom(a, 32)), port(dnsPort)))
		}
	}
	return rules
}

// innerWall describes the wall in a task's namespace. It keeps no state of connections: a task can't be reached by a new
// one, so whatever it sends belongs to one of its own.
func (n *Network) innerWall(conn *nftables.Conn, h host) *table {
	t := newTable(conn, innerTable)
	rules := []rule{
		when(to("lo\x00"), accept()),
		when(notIPv4(), refuse()),
	}
	rules = append(rules, n.exceptions(h)...)
	rules = append(rules, when(t.within(n.barred(h)), refuse()))
	for _, number := range smtp() {
		rules = append(rules, when(protocol(unix.IPPROTO_TCP), port(number), refuse()))
	}
	const first = nftables.ChainPriority(0)
	t.chain("output", nftables.ChainHookOutput, first, nftables.ChainPolicyDrop, append(rules, accept())...)
	t.chain("input", nftables.ChainHookInput, first, nftables.ChainPolicyDrop,
		when(from("lo\x00"), accept()),
		when(notIPv4(), drop()),
		when(protocol(unix.IPPROTO_TCP), opening(), drop()),
		accept(),
	)
	return t
}

func single(addresses []netip.Addr) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range addresses {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list
}
