package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// placer places the groups of one job, one after the other, on the same stocks.
type placer struct {
	request Request
	check   *checker
	members []Member                   // ready ones with an offer, by alias
	taken   map[*class][]pool.Capacity // what is left of classes that gave some to the job's earlier groups
	used    map[string]bool            // members that run some of the job already
	out     Result
}

// Place decides where the job's missing allocations go.
func Place(request Request) Result {
	p := &placer{
		request: request, check: newChecker(request.Job), taken: map[*class][]pool.Capacity{}, used: map[string]bool{},
		out: Result{Failed: map[string]*api.AllocationMetric{}},
	}
	for _, m := range request.Members {
		if m.State == pool.MemberReady && m.Offer != nil {
			p.members = append(p.members, m)
		}
	}
	slices.SortFunc(p.members, func(a, b Member) int { return cmp.Compare(a.Alias, b.Alias) })
	for _, share := range request.Current {
		p.used[share.Member] = true
	}
	for _, tg := range request.Job.TaskGroups {
		g := newGroup(request.Job, tg)
		p.placeGroup(&g)
	}
	return p.out
}

func (p *placer) placeGroup(g *group) {
	if g.everywhere {
		p.placeEverywhere(g)
		return
	}
	shares, have := keep(p.request.Current, g)
	need := g.count - have
	if need > 0 {
		options := p.options(g, need)
		picked := p.choose(g, options, shares, need)
		placed := 0
		for _, n := range picked {
			placed += n
		}
		shares = p.add(g, shares, picked, options)
		if placed < need {
			p.fail(g, need-placed)
		}
	}
	p.out.Shares = append(p.out.Shares, numbered(shares, g)...)
}

// keep returns the group's shares that stay, by offset, cut to the group's count.
func keep(current []Share, g *group) (shares []Share, have int) {
	for _, share := range current {
		if share.Group == g.name && share.Count > 0 {
			shares = append(shares, share)
		}
	}
	slices.SortStableFunc(shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Member, b.Member))
	})
	kept := shares[:0]
	for _, share := range shares {
		share.Count = min(share.Count, g.count-have)
		if share.Count > 0 {
			kept = append(kept, share)
			have += share.Count
		}
	}
	return kept, have
}

// add takes the picked allocations from the stocks and joins them to the shares that stay.
func (p *placer) add(g *group, shares []Share, picked map[int]int, options []option) []Share {
	byMember := map[string]int{}
	for _, i := range slices.Sorted(maps.Keys(picked)) {
		o := options[i]
		left, taken := g.take(p.free(o.class), o.devices, picked[i])
		p.taken[o.class] = left
		byMember[o.at.alias] += taken
	}
	for i := range shares {
		shares[i].Count += byMember[shares[i].Member]
		delete(byMember, shares[i].Member)
	}
	seen := map[string]bool{}
	var order []string // options are ranked, so new members follow in that order
	for _, o := range options {
		if byMember[o.at.alias] > 0 && !seen[o.at.alias] {
			seen[o.at.alias] = true
			order = append(order, o.at.alias)
		}
	}
	for _, alias := range order {
		shares = append(shares, Share{Member: alias, Group: g.name, GroupShare: pool.GroupShare{Count: byMember[alias]}})
		p.used[alias] = true
	}
	return shares
}

// numbered gives every share its offset in the whole group. The total is what the job asked for, so that the world size
// of a gang is right from the start.
func numbered(shares []Share, g *group) []Share {
	offset := 0
	for i := range shares {
		shares[i].Offset, shares[i].Total = offset, g.count
		offset += shares[i].Count
	}
	return shares
}

// placeEverywhere runs a system group on every member that has a node for it; each member's own scheduler then puts
// one on every node that fits.
func (p *placer) placeEverywhere(g *group) {
	var shares []Share
	options := p.options(g, 1)
	seen := map[string]bool{}
	for _, share := range p.request.Current {
		if share.Group == g.name && !seen[share.Member] {
			seen[share.Member] = true
			shares = append(shares, Share{Member: share.Member, Group: g.name, GroupShare: pool.GroupShare{Count: g.count}})
		}
	}
	for _, o := range options {
		if !seen[o.at.alias] {
			seen[o.at.alias] = true
			shares = append(shares, Share{Member: o.at.alias, Group: g.name, GroupShare: pool.GroupShare{Count: g.count}})
		}
	}
	if len(shares) == 0 {
		p.fail(g, 1)
	}
	slices.SortFunc(shares, func(a, b Share) int { return cmp.Compare(a.Member, b.Member) })
	for i := range shares {
		shares[i].Offset, shares[i].Total = i*g.count, len(shares)*g.count
	}
	p.out.Shares = append(p.out.Shares, shares...)
}

// fail explains what could not be placed, with the members' own refusals.
func (p *placer) fail(g *group, missing int) {
	metric := p.explain(g)
	for _, alias := range slices.Sorted(maps.Keys(p.request.Excluded)) {
		metric.merge(p.request.Excluded[alias].Failed[g.name])
	}
	metric.out.CoalescedFailures = max(missing-1, 0)
	p.out.Failed[g.name] = metric.out
}
