package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// rank orders options: affinity, price, members that run some of the job already, members that take all of the rest,
// then the fullest of those or the emptiest of the others, so that a group is split over as few members as can be.
func (p *placer) rank(g *group, candidates []*candidate) []option {
	compare := func(a, b *candidate) int {
		return cmp.Or(
			cmp.Compare(a.price, b.price),
			cmp.Compare(order(!a.used), order(!b.used)),
			cmp.Compare(b.room, a.room),
			cmp.Compare(a.spare, b.spare),
			cmp.Compare(a.alias, b.alias),
		)
	}
	slices.SortFunc(candidates, func(a, b *candidate) int { return cmp.Or(cmp.Compare(b.affinity, a.affinity), compare(a, b)) })
	var out []option
	for _, c := range candidates {
		out = append(out, c.options...)
	}
	if len(g.affinities) > 0 { // only then can classes of one member differ in rank
		slices.SortStableFunc(out, func(a, b option) int { return cmp.Or(cmp.Compare(b.affinity, a.affinity), compare(a.at, b.at)) })
	}
	return out
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
	pinned, isPinned := "", false
	for _, m := range p.request.Members {
		if len(shares) > 0 && g.colocate != "" && m.Alias == shares[0].Member && m.Offer != nil {
			pinned, isPinned = g.domain(m.Alias, m.Offer.place), true
		}
	}
	index := map[string]int{}
	var out [][]int
	for i, o := range options {
		k := g.domain(o.at.alias, o.at.place)
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

// domain names what the group must not be spread beyond.
func (g *group) domain(alias string, place pool.Place) string {
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

// fillEvenly gives one allocation at a time to the best option, since each changes what is best next. Options with the
// same values differ in rank alone, so only the first of them that has room is a choice.
func (p *placer) fillEvenly(g *group, options []option, domain []int, shares []Share, need int) map[int]int {
	tallies := p.tallies(g, options, shares)
	queues := alike(options, domain, tallies)
	picked := map[int]int{}
	for range need {
		best := p.best(g, options, queues, tallies)
		if best < 0 {
			break
		}
		i := queues[best][0]
		picked[i]++
		if picked[i] == options[i].room {
			queues[best] = queues[best][1:]
		}
		for _, t := range tallies {
			t.counts[t.values[i]]++
		}
	}
	return picked
}

// best says which queue's first option the next allocation goes to, -1 if none may take it.
func (p *placer) best(g *group, options []option, queues [][]int, tallies []*tally) int {
	best, bestScore := -1, 0.0
	for q, queue := range queues {
		if len(queue) == 0 {
			continue
		}
		score, ok := score(tallies, queue[0], g.count)
		score += options[queue[0]].affinity
		if ok && (best < 0 || score > bestScore || score == bestScore && queue[0] < queues[best][0]) {
			best, bestScore = q, score
		}
	}
	return best
}

// alike gathers the options of a domain that have the same values and affinity, in rank order.
func alike(options []option, domain []int, tallies []*tally) [][]int {
	index := map[string]int{}
	var out [][]int
	for _, i := range domain {
		key := strconv.FormatFloat(options[i].affinity, 'g', -1, 64)
		for _, t := range tallies {
			key += "\x00" + t.values[i]
		}
		at, ok := index[key]
		if !ok {
			at = len(out)
			index[key] = at
			out = append(out, nil)
		}
		out[at] = append(out[at], i)
	}
	return out
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
			v, _ := resolve(t.target, o.class.node)
			t.values = append(t.values, v)
			t.counts[v] += 0 // a value that has none yet counts as the least
			byMember[o.at.alias] = v
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
