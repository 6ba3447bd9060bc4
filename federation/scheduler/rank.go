package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// rank orders options: affinity, price, members that run some of the job already, members that take all of the rest,
// then the fullest of those or the emptiest of the others, so that a group is split over as few members as can be.
func (p *placer) rank(g *group, options []option, need int) {
	room := map[string]int{}
	for _, o := range options {
		room[o.member.Alias] = min(room[o.member.Alias]+o.room, need)
	}
	spare := map[string]int{} // finer than room: how much would be left of a member that takes all
	for _, o := range options {
		for _, c := range o.stock.free {
			spare[o.member.Alias] += c.Count * (1 + gpus(c))
		}
	}
	slices.SortStableFunc(options, func(a, b option) int {
		x, y := a.member.Alias, b.member.Alias
		return cmp.Or(
			cmp.Compare(b.affinity, a.affinity),
			cmp.Compare(a.member.Offer.price, b.member.Offer.price),
			cmp.Compare(order(!p.used[x]), order(!p.used[y])),
			cmp.Compare(room[y], room[x]),
			cmp.Compare(spare[x], spare[y]),
			cmp.Compare(x, y),
		)
	})
	_ = g
}

func gpus(c pool.Capacity) int {
	n := 0
	for _, free := range c.Devices {
		n += free
	}
	return n
}

func order(b bool) int {
	if b {
		return 1
	}
	return 0
}

// choose says how many allocations each option takes, by its place in options. A gang that does not fit whole takes
// nothing.
func (p *placer) choose(g *group, options []option, shares []Share, need int) map[int]int {
	var best map[int]int
	most := -1
	for _, domain := range p.domains(g, options, shares) {
		picked := p.fill(g, options, domain, shares, need)
		total := 0
		for _, n := range picked {
			total += n
		}
		if total > most {
			best, most = picked, total
		}
		if total == need {
			break
		}
	}
	if g.gang && most < need {
		return nil
	}
	return best
}

// domains lists the sets of options that the group may be spread over, best first: one set with everything, or with
// pool_colocate one set for each member, country or continent.
func (p *placer) domains(g *group, options []option, shares []Share) [][]int {
	key := func(alias string, place pool.Place) string {
		switch g.colocate {
		case "member":
			return alias
		case "country":
			return place.Country
		case "continent":
			return place.Continent
		}
		return ""
	}
	pinned, isPinned := "", false
	if len(shares) > 0 && g.colocate != "" {
		for _, m := range p.request.Members {
			if m.Alias == shares[0].Member && m.Offer != nil {
				pinned, isPinned = key(m.Alias, m.Offer.place), true
			}
		}
	}
	index := map[string]int{}
	var out [][]int
	for i, o := range options {
		k := key(o.member.Alias, o.member.Offer.place)
		if isPinned && k != pinned {
			continue
		}
		at, ok := index[k]
		if !ok {
			at = len(out)
			index[k] = at
			out = append(out, nil)
		}
		out[at] = append(out[at], i)
	}
	return out
}

// fill gives the domain's options allocations in rank order, or one by one where each choice changes the next.
func (p *placer) fill(g *group, options []option, domain []int, shares []Share, need int) map[int]int {
	if len(g.spreads) > 0 || len(g.properties) > 0 {
		return p.fillEvenly(g, options, domain, shares, need)
	}
	picked := map[int]int{}
	for _, i := range domain {
		n := min(options[i].room, need)
		if n > 0 {
			picked[i] = n
			need -= n
		}
	}
	return picked
}

// tally counts the allocations for each value of an attribute.
type tally struct {
	target string
	spread *api.Spread // nil for a distinct_property
	limit  int
	values []string // by option
	counts map[string]int
}

func (p *placer) fillEvenly(g *group, options []option, domain []int, shares []Share, need int) map[int]int {
	tallies := p.tallies(g, options, shares)
	picked := map[int]int{}
	for range need {
		best, bestScore := -1, 0.0
		for _, i := range domain {
			if picked[i] >= options[i].room {
				continue
			}
			score, ok := score(tallies, i, g.count)
			// Options are in rank order, so an equal score later in the list is the worse choice.
			if ok && (best < 0 || score+options[i].affinity > bestScore) {
				best, bestScore = i, score+options[i].affinity
			}
		}
		if best < 0 {
			break
		}
		picked[best]++
		for _, t := range tallies {
			t.counts[t.values[best]]++
		}
	}
	return picked
}

func (p *placer) tallies(g *group, options []option, shares []Share) []*tally {
	var out []*tally
	for _, s := range g.spreads {
		out = append(out, &tally{target: s.Attribute, spread: s})
	}
	for _, c := range g.properties {
		out = append(out, &tally{target: c.target, limit: c.limit})
	}
	for _, t := range out {
		t.counts = map[string]int{}
		byMember := map[string]string{}
		for _, o := range options {
			v, _ := resolve(t.target, o.node)
			t.values = append(t.values, v)
			byMember[o.member.Alias] = v
		}
		for _, share := range shares {
			if v, ok := byMember[share.Member]; ok {
				t.counts[v] += share.Count
			}
		}
	}
	return out
}

// score says how much another allocation at option i would help the spreads, as Nomad scores it: with targets by the
// distance from the wanted share, without by evenness. ok is false where a distinct_property forbids it.
func score(tallies []*tally, i, total int) (sum float64, ok bool) {
	weights := 0.0
	for _, t := range tallies {
		if t.spread != nil {
			weights += weight(t.spread)
		}
	}
	for _, t := range tallies {
		used := t.counts[t.values[i]]
		if t.spread == nil {
			if used >= t.limit {
				return 0, false
			}
			continue
		}
		sum += boost(t, t.values[i], used, total) * weight(t.spread) / weights
	}
	return sum, true
}

func weight(s *api.Spread) float64 {
	if s.Weight == nil || *s.Weight <= 0 {
		return 50
	}
	return float64(*s.Weight)
}

func boost(t *tally, v string, used, total int) float64 {
	if len(t.spread.SpreadTarget) == 0 {
		least := slices.Min(append(slices.Collect(maps.Values(t.counts)), used))
		return float64(least-used) / float64(max(total, 1))
	}
	percent, sum, named := 0.0, 0.0, false
	for _, target := range t.spread.SpreadTarget {
		sum += float64(target.Percent)
		if target.Value == v {
			percent, named = float64(target.Percent), true
		}
	}
	if !named { // what the targets leave over belongs to all other values together
		percent = 100 - sum
	}
	desired := percent / 100 * float64(total)
	if desired <= 0 {
		return -1
	}
	return (desired - float64(used+1)) / desired
}
