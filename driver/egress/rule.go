package egress

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is a sequence of expressions: all of its matches must hold for its verdict to be reached.
type rule []expr.Any

// when joins matches and a verdict.
func when(parts ...rule) rule { return slices.Concat(parts...) }

const register = unix.NFT_REG_1

func equals(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func differs(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data}
}

// from and to match the beginning of an interface's name. A name that ends in a NUL matches whole.
func from(prefix string) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, equals([]byte(prefix))}
}

func to(prefix string) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, equals([]byte(prefix))}
}

func notTo(prefix string) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, differs([]byte(prefix))}
}

func ipv4() rule {
	return rule{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equals([]byte{unix.NFPROTO_IPV4})}
}

func notIPv4() rule {
	return rule{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, differs([]byte{unix.NFPROTO_IPV4})}
}

func protocol(number byte) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals([]byte{number})}
}

func notProtocol(number byte) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, differs([]byte{number})}
}

// state matches a connection that is in any of the states.
func state(bits uint32) rule { return anyBit(&expr.Ct{Key: expr.CtKeySTATE, Register: register}, bits) }

// translated matches a connection whose destination the host has changed: a port that it publishes.
func notTranslated() rule {
	const destinationNAT = 1 << 5 // IPS_DST_NAT
	r := anyBit(&expr.Ct{Key: expr.CtKeySTATUS, Register: register}, destinationNAT)
	r[len(r)-1] = equals(make([]byte, 4))
	return r
}

func anyBit(load expr.Any, bits uint32) rule {
	return rule{
		load,
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		differs(make([]byte, 4)),
	}
}

// port matches the destination's, of TCP and UDP alike. The protocol must have been matched before.
func port(number uint16) rule {
	return rule{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equals(binary.BigEndian.AppendUint16(nil, number)),
	}
}

func icmpType(kind byte) rule {
	return rule{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Len: 1}, equals([]byte{kind})}
}

// opening matches the first segment of a TCP connection.
func opening() rule {
	const flags, syn, ack = 13, 0x02, 0x10
	return rule{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		equals([]byte{syn}),
	}
}

// destination loads and compares, or only loads, an IPv4 packet's destination.
func destination(p netip.Prefix) rule {
	r := loadDestination()
	if p.Bits() < 32 {
		mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
		r = append(r, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(r, equals(p.Masked().Addr().AsSlice()))
}

func loadDestination() rule {
	return rule{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}}
}

func loadSource() rule {
	return rule{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}}
}

// forged matches a source address that the interface it came by does not lead to.
func forged() rule {
	return rule{&expr.Fib{Register: register, ResultOIF: true, FlagSADDR: true, FlagIIF: true}, equals(make([]byte, 4))}
}

// notUnicast matches the host's own addresses, broadcasts and whatever else no neighbour answers to.
func notUnicast() rule {
	return rule{&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true}, differs(binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST))}
}

// over matches once a source has more of something than it may: exprs keeps count of it per source, in a set.
func over(set *nftables.Set, count expr.Any) rule {
	return append(loadSource(), &expr.Dynset{SrcRegKey: register, SetName: set.Name, SetID: set.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{count}})
}

// overOf is over for all sources whose addresses have the same bits under a mask.
func overOf(set *nftables.Set, mask uint32, count expr.Any) rule {
	all := over(set, count)
	masked := &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binary.BigEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)}
	return slices.Insert(all, 1, expr.Any(masked))
}

func accept() rule { return rule{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() rule   { return rule{&expr.Verdict{Kind: expr.VerdictDrop}} }

// refuse answers at once, so that a program that tries a metadata service does not wait for its time-out.
func refuse() rule {
	return rule{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

func jump(chain string) rule {
	return rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// table collects a table's rules, to be written in one transaction and counted.
type table struct {
	conn  *nftables.Conn
	table *nftables.Table
	rules map[string]int // per chain
	err   error
}

// newTable replaces whatever is there of that name, in the same transaction.
func newTable(conn *nftables.Conn, name string) *table {
	t := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	conn.AddTable(t)
	conn.DelTable(t)
	return &table{conn: conn, table: conn.AddTable(t), rules: map[string]int{}}
}

func (t *table) chain(name string, hook *nftables.ChainHook, priority nftables.ChainPriority, policy nftables.ChainPolicy, rules ...rule) {
	c := &nftables.Chain{Name: name, Table: t.table}
	if hook != nil {
		c.Hooknum, c.Priority, c.Policy, c.Type = hook, &priority, &policy, nftables.ChainTypeFilter
		if name == chainNAT {
			c.Type = nftables.ChainTypeNAT
		}
	}
	t.conn.AddChain(c)
	for _, r := range rules {
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: r})
	}
	t.rules[name] = len(rules)
}

// within matches a destination in any of the prefixes.
func (t *table) within(prefixes []netip.Prefix) rule {
	set := &nftables.Set{Table: t.table, Anonymous: true, Constant: true, Interval: true, KeyType: nftables.TypeIPAddr}
	var elements []nftables.SetElement
	for _, s := range spans(prefixes) {
		elements = append(elements, nftables.SetElement{Key: s.first.AsSlice()})
		if end := s.last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	t.keep(t.conn.AddSet(set, elements))
	return append(loadDestination(), &expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID})
}

// counter makes a set in which the kernel keeps a count per source address.
func (t *table) counter(name string) *nftables.Set {
	set := &nftables.Set{Table: t.table, Name: name, Dynamic: true, KeyType: nftables.TypeIPAddr, Size: 1 << 16}
	t.keep(t.conn.AddSet(set, nil))
	return set
}

func (t *table) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *table) write() error {
	if t.err != nil {
		return fmt.Errorf("internal error: cannot encode the table %s: %w", t.table.Name, t.err)
	}
	err := t.conn.Flush()
	if err != nil {
		return fmt.Errorf("cannot write the nftables table %s: %w", t.table.Name, err)
	}
	return nil
}
