package scheduler

import (
	"pangaea/federation/pool"
)

// option is one class of one member where the group's allocations may run.
type option struct {
	at       *candidate
	class    *class
	devices  [][]string // for each device request, the device groups that satisfy it
	room     int        // allocations that fit, at most as many as are needed
	affinity float64
}

// candidate is a member with options, and what it is ranked by.
type candidate struct {
	alias    string
	place    pool.Place
	price    float64
	used     bool // it runs some of the job already
	room     int  // of all its options, at most as many as are needed
	spare    int  // nodes and GPUs that are left
	affinity float64
	options  []option
}

// verdict is what is known of all classes of one kind: the same for each member that has nodes of it.
type verdict struct {
	available bool
	reason    string
	devices   [][]string
	affinity  float64
}

// judge decides about a kind of class once in a placement: members' nodes are mostly of the same few kinds, and asking
// Nomad's checkers a hundred thousand times is what would make a large pool slow.
func (p *placer) judge(g *group, c *class, seen map[signature]verdict) verdict {
	v, ok := seen[c.kind]
	if ok {
		return v
	}
	v.available = p.check.available(c.node)
	if v.available {
		v.reason = p.check.reason(g, c.node)
	}
	if v.available && v.reason == "" {
		v.devices = p.check.deviceGroups(g, c.node)
		v.affinity = p.check.affinity(g.affinities, c.node)
	}
	seen[c.kind] = v
	return v
}

// options lists the feasible classes of all members in rank order.
func (p *placer) options(g *group, need int) []option {
	seen := map[signature]verdict{}
	var candidates []*candidate
	for _, m := range p.members {
		_, refused := p.request.Excluded[m.Alias]
		if refused || p.check.memberReason(g, m) != "" {
			continue
		}
		c := p.candidate(g, m, need, seen)
		if len(c.options) > 0 {
			candidates = append(candidates, c)
		}
	}
	return p.rank(g, candidates)
}

func (p *placer) candidate(g *group, m Member, need int, seen map[signature]verdict) *candidate {
	out := &candidate{alias: m.Alias, place: m.Offer.place, price: m.Offer.price, used: p.used[m.Alias]}
	out.options = make([]option, 0, len(m.Offer.classes))
	out.affinity = p.check.affinity(g.memberAffinities, m.Offer.head)
	for i := range m.Offer.classes {
		c := &m.Offer.classes[i]
		v := p.judge(g, c, seen)
		if !v.available || v.reason != "" {
			continue
		}
		room := g.room(p.free(c), v.devices, need)
		out.room = min(out.room+room, need)
		out.spare += c.spare
		if room > 0 {
			out.options = append(out.options, option{at: out, class: c, devices: v.devices, room: room, affinity: g.join(out.affinity, v.affinity)})
		}
	}
	return out
}

// free is what is left of a class after the job's earlier groups took their share of it.
func (p *placer) free(c *class) []pool.Capacity {
	if left, ok := p.taken[c]; ok {
		return left
	}
	return c.free
}

// explain is Nomad's account of why the group's allocations do not fit. It looks at every class again, which only a
// placement that failed has to pay for.
func (p *placer) explain(g *group) *metric {
	m := newMetric(p.request.Job)
	seen := map[signature]verdict{}
	for _, member := range p.members {
		refusal, refused := p.request.Excluded[member.Alias]
		why := p.check.memberReason(g, member)
		if why == "" && refused {
			why = "member " + member.Alias + ": " + refusal.Reason
		}
		for i := range member.Offer.classes {
			c := &member.Offer.classes[i]
			v := p.judge(g, c, seen)
			if !v.available {
				continue
			}
			m.available(c)
			switch {
			case refused && refusal.Failed[g.name] != nil: // its own metrics say why, once
			case why != "":
				m.filtered(c, why)
			case v.reason != "":
				m.filtered(c, v.reason)
			default:
				m.exhausted(g, c, p.free(c), v.devices)
			}
		}
	}
	return m
}
