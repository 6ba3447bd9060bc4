package gateway

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
)

// maxRounds bounds how often one evaluation asks other members after a "no".
const maxRounds = 16

// place makes sure that every allocation of a job has a member: it keeps what runs, gives what is missing or was lost
// to members that have room and say so, writes that down, and tells them.
func (g *Gateway) place(ctx context.Context, v view) error {
	version := deref(v.record.Job.Version)
	settled := len(v.lost)+len(v.done)+len(v.stale) == 0 && v.set.JobVersion == version && v.setIndex != 0 && len(missing(v)) == 0
	if settled {
		err := g.commitAll(ctx, v)
		if err != nil {
			return err
		}
		g.finish(v, nil)
		return g.saveRegistered(ctx, v)
	}
	result, err := g.reserve(ctx, &v, version)
	if err != nil {
		return err
	}
	if g.apply(&v, result, version) {
		err = g.save(ctx, &v)
		if err != nil {
			return err
		}
	}
	err = g.commitAll(ctx, v)
	if err != nil {
		return err
	}
	g.finish(v, result.Failed)
	return g.saveRegistered(ctx, v)
}

// missing lists the groups that have fewer allocations on members than the job asks for, or more, or are gone.
func missing(v view) []string {
	have := map[string]int{}
	for _, share := range v.current() {
		have[share.Group] += share.Count
	}
	var out []string
	for _, tg := range v.record.Job.TaskGroups {
		name := deref(tg.Name)
		if isSystem(v.record.Job) {
			out = append(out, name) // a member that joined may have nodes for it
		} else if have[name] != deref(tg.Count) {
			out = append(out, name)
		}
		delete(have, name)
	}
	for name := range have {
		out = append(out, name)
	}
	return out
}

func isSystem(spec *api.Job) bool {
	return deref(spec.Type) == api.JobTypeSystem || deref(spec.Type) == api.JobTypeSysbatch
}

// current lists the shares that stay where they are, in the order of their offsets.
func (v *view) current() []scheduler.Share {
	var out []scheduler.Share
	for _, p := range v.set.Placements {
		if !isLive(p) || v.lost[p.ID] {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
			out = append(out, scheduler.Share{Member: p.Member, Group: name, GroupShare: p.Groups[name]})
		}
	}
	slices.SortStableFunc(out, func(a, b scheduler.Share) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), cmp.Compare(a.Offset, b.Offset))
	})
	return out
}

// reserve asks the scheduler and then the members that it chose, until all of them hold the room or nobody is left.
func (g *Gateway) reserve(ctx context.Context, v *view, version uint64) (scheduler.Result, error) {
	ids := map[string]string{} // one placement ID per member for all rounds, so that a second ask replaces the first
	// A member that refuses more keeps what it has; one that refuses even as much as it has, such as a new version
	// that its owner forbids, loses its share to others.
	dropped := map[string]bool{}
	for range maxRounds {
		current := slices.DeleteFunc(v.current(), func(s scheduler.Share) bool { return dropped[s.Member] })
		result := scheduler.Place(scheduler.Request{
			Job: v.record.Job, Members: v.members, Current: current, Excluded: v.excluded,
		})
		if g.holdLost(v, result) {
			continue
		}
		asks := g.asks(v, result, version, ids)
		refusals := g.reserveAll(ctx, v, asks)
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		if len(refusals) == 0 {
			return result, nil
		}
		maps.Copy(v.excluded, refusals)
		for _, a := range asks {
			old, had := v.live(a.member)
			_, refused := refusals[a.member]
			dropped[a.member] = dropped[a.member] || refused && had && !grows(old.Groups, a.groups)
		}
		g.remember(v.key, refusals)
		g.releaseAll(ctx, v, asks, refusals)
	}
	return scheduler.Place(scheduler.Request{Job: v.record.Job, Current: v.current(), Excluded: v.excluded}), nil
}

// holdLost keeps shares of lost members that nobody else has room for: an allocation that may still run is better than
// none. It reports whether there were any; the scheduler must then be asked again.
func (g *Gateway) holdLost(v *view, result scheduler.Result) bool {
	held := false
	for _, p := range v.set.Placements {
		for name := range p.Groups {
			_, refused := v.excluded[p.Member]
			if v.lost[p.ID] && !refused && result.Failed[name] != nil {
				delete(v.lost, p.ID)
				held = true
			}
		}
	}
	if held {
		g.mu.Lock()
		defer g.mu.Unlock()
		if j := g.jobs[v.key]; j != nil {
			j.heldUntil = g.settings.now().Add(holdFor)
		}
	}
	return held
}

// holdFor is how long the search for somebody to take over a lost share rests, unless an offer changes meanwhile.
const holdFor = 5 * time.Second

// grows reports whether a share asks for more than there was.
func grows(old, next map[string]pool.GroupShare) bool {
	for name, share := range next {
		if share.Count > old[name].Count {
			return true
		}
	}
	return false
}

// ask is a share that a member must check before it is written down.
type ask struct {
	member string
	ref    pool.PlacementRef
	groups map[string]pool.GroupShare
}

// asks lists the members whose share is new or changes. A member that cannot be reached keeps what it has, and hears
// of the change when it is back.
func (g *Gateway) asks(v *view, result scheduler.Result, version uint64, ids map[string]string) []ask {
	var out []ask
	for _, alias := range membersOf(result) {
		groups := result.Groups(alias)
		old, had := v.live(alias)
		if had && (sameShares(old.Groups, groups) && v.set.JobVersion == version || !v.ready(alias)) {
			continue
		}
		if ids[alias] == "" {
			ids[alias] = newID()
		}
		id := ids[alias]
		if had {
			id = old.ID
		}
		out = append(out, ask{member: alias, groups: groups, ref: pool.PlacementRef{
			Namespace: v.key.namespace, JobID: v.key.id, PlacementID: id, Epoch: v.epoch,
		}})
	}
	v.ids = ids
	return out
}

func (v *view) live(alias string) (pool.Placement, bool) {
	for _, p := range v.set.Placements {
		if p.Member == alias && isLive(p) && !v.lost[p.ID] {
			return p, true
		}
	}
	return pool.Placement{}, false
}

// membersOf lists the members that a result gives work to.
func membersOf(result scheduler.Result) []string {
	seen := map[string]bool{}
	for _, share := range result.Shares {
		seen[share.Member] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func sameShares(a, b map[string]pool.GroupShare) bool { return maps.Equal(a, b) }

// successor is what becomes of a live placement that is to have these groups from now on.
func (v *view) successor(p pool.Placement, groups map[string]pool.GroupShare, newVersion bool) pool.Placement {
	switch {
	case v.lost[p.ID]:
		p.State = pool.PlacementSuperseded
	case len(groups) == 0:
		p.State = pool.PlacementStopped
	case newVersion || v.stale[p.ID] || !sameShares(p.Groups, groups):
		p.State, p.Groups, p.Epoch = pool.PlacementCommitted, groups, v.epoch
	case v.done[p.ID]:
		p.State = pool.PlacementComplete
	}
	return p
}

// apply turns a result into the set that is to be written, and reports whether it differs from the one there is.
func (g *Gateway) apply(v *view, result scheduler.Result, version uint64) bool {
	before := v.set.Placements
	newVersion := v.set.JobVersion != version
	next := make([]pool.Placement, 0, len(before)+1)
	changed := v.setIndex == 0 || newVersion
	epoch := v.epoch
	kept := map[string]bool{}
	for _, p := range before {
		after := p
		if isLive(p) {
			after = v.successor(p, result.Groups(p.Member), newVersion)
			kept[p.Member] = kept[p.Member] || isLive(after)
		}
		if after.State == pool.PlacementSuperseded && p.State != after.State {
			g.logger.Warn("placing a member's share elsewhere", "job", v.key.String(), "member", p.Member, "epoch", p.Epoch)
		}
		changed = changed || after.State != p.State || after.Epoch != p.Epoch
		next = append(next, after)
	}
	for _, alias := range membersOf(result) {
		if kept[alias] {
			continue
		}
		next, changed = append(next, pool.Placement{
			ID: or(v.ids[alias], newID()), Member: alias, Epoch: epoch, State: pool.PlacementCommitted,
			Groups: result.Groups(alias), CreatedAt: g.settings.now().UTC(),
		}), true
	}
	v.set.Placements, v.set.JobVersion = next, version
	if changed {
		v.set.Epoch = epoch
	}
	return changed
}
