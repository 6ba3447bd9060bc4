package scheduler

import (
	"github.com/hashicorp/nomad/nomad/structs"

	"pangaea/federation/pool"
)

// option is one class of one member where the group's allocations may run.
type option struct {
	member   Member
	node     *structs.Node
	stock    *stock
	devices  [][]string // for each device request, the device groups that satisfy it
	room     int        // allocations that fit, at most as many as are needed
	affinity float64
}

// options lists the feasible classes of all members in rank order; the metric says why others are not.
func (p *placer) options(g *group, need int) ([]option, *metric) {
	m := newMetric(p.request.Job)
	var out []option
	for _, member := range p.members {
		refused := p.request.Excluded[member.Alias].Failed[g.name]
		why := p.check.memberReason(g, member, p.request.Excluded)
		for i := range member.Offer.classes {
			c := &member.Offer.classes[i]
			if !p.check.available(c.node) {
				continue
			}
			m.available(c)
			if refused != nil {
				continue // its own metrics say why, once
			}
			reason := why
			if reason == "" {
				reason = p.check.reason(g, c.node)
			}
			if reason != "" {
				m.filtered(c, reason)
				continue
			}
			_, excluded := p.request.Excluded[member.Alias]
			if excluded {
				m.filtered(c, "member "+member.Alias+": "+p.request.Excluded[member.Alias].Reason)
				continue
			}
			out = append(out, p.option(g, member, i, need))
		}
	}
	p.rank(g, out, need)
	return out, m
}

func (p *placer) option(g *group, member Member, i, need int) option {
	c := &member.Offer.classes[i]
	stocks := p.stocks[member.Alias]
	if stocks == nil {
		stocks = make([]*stock, len(member.Offer.classes))
		p.stocks[member.Alias] = stocks
	}
	if stocks[i] == nil {
		stocks[i] = &stock{free: append([]pool.Capacity(nil), c.free...)}
	}
	o := option{member: member, node: c.node, stock: stocks[i], devices: p.check.deviceGroups(g, c.node)}
	o.room = o.stock.room(g, o.devices, need)
	o.affinity = p.check.affinity(g, c.node)
	return o
}
