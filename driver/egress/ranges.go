package egress

import (
	"net/netip"
	"slices"
)

// forbidden is what is not the public internet: IANA's special-purpose registry, multicast and what is reserved.
func forbidden() []netip.Prefix {
	var list []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8",
		"169.254.0.0/16", // clouds' metadata among others
		"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// smtp are the ports that mail is sent to: a host that sends spam for a stranger is soon on everybody's list.
func smtp() []uint16 { return []uint16{25, 465, 587} }

// pools are where tasks' addresses come from, the first that the host does not use.
func pools() []netip.Prefix {
	var list []netip.Prefix
	for _, text := range []string{"198.19.0.0/17", "100.124.0.0/17", "10.213.0.0/17", "172.29.128.0/17", "192.168.192.0/19"} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// span is a range of addresses, its last included.
type span struct{ first, last netip.Addr }

// spans are the addresses of prefixes as sorted ranges that don't touch: the kernel takes no others in one set.
func spans(prefixes []netip.Prefix) []span {
	var all []span
	for _, p := range prefixes {
		all = append(all, span{p.Masked().Addr(), lastOf(p)})
	}
	slices.SortFunc(all, func(a, b span) int { return a.first.Compare(b.first) })
	var merged []span
	for _, s := range all {
		if n := len(merged); n > 0 && !merged[n-1].apart(s) {
			if merged[n-1].last.Less(s.last) {
				merged[n-1].last = s.last
			}
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// apart tells whether at least one address lies between a span and a later one.
func (s span) apart(later span) bool {
	next := s.last.Next()
	return next.IsValid() && next.Less(later.first)
}

func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}
