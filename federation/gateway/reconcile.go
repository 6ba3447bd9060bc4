package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
	"pangaea/federation/state"
)

// view is what a reconciliation works on: copies, so that no lock is held while members are asked.
type view struct {
	key      jobKey
	record   pool.JobRecord
	known    bool
	evalID   string // the evaluation that this reconciliation answers
	set      pool.PlacementSet
	setIndex uint64
	lost     map[string]bool // IDs of placements whose member is lost for this job
	done     map[string]bool // IDs of batch placements that have run to their end
	stale    map[string]bool // IDs of placements that their member knows a higher epoch of
	epoch    uint64          // of everything that this reconciliation changes
	members  []scheduler.Member
	excluded map[string]scheduler.Exclusion
	ids      map[string]string // by member: the ID that a new placement there gets
}

// reconcile moves what runs of a job towards what should run. It is called for every change of the job and may stop
// anywhere: the next call starts again from Consul's and the members' words.
func (g *Gateway) reconcile(ctx context.Context, key jobKey) {
	v, ok := g.view(key)
	if !ok {
		return
	}
	var err error
	switch {
	case !v.known || v.record.Stopped:
		err = g.halt(ctx, v)
	case isParent(v.record.Job):
		g.finish(v, nil)
	default:
		err = g.place(ctx, v)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	g.logger.Warn("cannot finish the job's placement yet, trying again", "job", key.String(), "error", err)
	g.mu.Lock()
	defer g.mu.Unlock()
	if errors.Is(err, state.ErrConflict) {
		g.work.add(key)
	}
	j := g.jobs[key]
	if j != nil {
		j.failures++
		g.changed()
		j.retryAt = g.settings.now().Add(min(time.Second<<min(j.failures-1, 5), 30*time.Second))
	}
}

func (g *Gateway) view(key jobKey) (view, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	if j == nil || !g.leading {
		return view{}, false
	}
	now := g.settings.now()
	v := view{
		key: key, record: j.record, known: j.known, evalID: j.evalID, set: j.set, setIndex: j.setIndex,
		lost: map[string]bool{}, done: map[string]bool{}, stale: maps.Clone(j.stale), excluded: maps.Clone(j.excluded),
		// Epochs come from the index, so that they grow even over a purge, of which members may remember more than Consul.
		epoch: max(j.set.Epoch+1, g.index.next()),
	}
	v.set.Placements = slices.Clone(j.set.Placements)
	wanted := j.known && !j.record.Stopped
	for _, p := range j.set.Placements {
		v.lost[p.ID] = isLive(p) && (g.isLost(j, p, now) || j.refused[p.ID])
		v.done[p.ID] = wanted && g.hasEnded(j, p)
	}
	maps.DeleteFunc(v.lost, func(_ string, yes bool) bool { return !yes })
	maps.DeleteFunc(v.done, func(_ string, yes bool) bool { return !yes })
	for _, m := range g.members {
		v.members = append(v.members, scheduler.Member{Alias: m.alias, State: m.state, Offer: m.offer})
	}
	return v, true
}

// ready reports whether a member can be asked now.
func (v *view) ready(alias string) bool {
	return slices.ContainsFunc(v.members, func(m scheduler.Member) bool {
		return m.Alias == alias && m.State == pool.MemberReady
	})
}

// save writes the view's placements behind the fence and makes them the job's. It is the only way placements change.
func (g *Gateway) save(ctx context.Context, v *view) error {
	v.set.Placements = prune(v.set.Placements)
	g.mu.Lock()
	fence := g.fence
	g.mu.Unlock()
	indexes, err := g.store.PutPlacements(ctx, fence, state.PlacementWrite{Set: v.set, CAS: v.setIndex})
	if err != nil {
		return err
	}
	v.setIndex = indexes[0]
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[v.key]
	if j == nil {
		return nil
	}
	j.set, j.setIndex = v.set, v.setIndex
	j.set.Placements = slices.Clone(v.set.Placements)
	g.touch(j)
	return nil
}

// prune keeps the latest few of the placements that have ended, for users to see where a job was.
func prune(placements []pool.Placement) []pool.Placement {
	const keep = 8
	ended := 0
	for _, p := range placements {
		if !isLive(p) {
			ended++
		}
	}
	return slices.DeleteFunc(placements, func(p pool.Placement) bool {
		if isLive(p) || ended <= keep {
			return false
		}
		ended--
		return true
	})
}

// halt stops every placement of a job that the user stopped, and forgets the job once it is purged.
func (g *Gateway) halt(ctx context.Context, v view) error {
	changed := false
	for i := range v.set.Placements {
		if isLive(v.set.Placements[i]) {
			v.set.Placements[i].State = pool.PlacementStopped
			changed = true
		}
	}
	if changed {
		err := g.save(ctx, &v)
		if err != nil {
			return err
		}
	}
	err := g.stopAll(ctx, v)
	if err != nil && v.known {
		g.finish(v, nil) // what is silent is told to stop when it comes back
		return err
	}
	if !v.known {
		return g.forget(ctx, v)
	}
	g.finish(v, nil)
	return nil
}

// forget removes what is left of a purged job. Members that could not be told find out when they next sync: what
// the pool does not know is stopped.
func (g *Gateway) forget(ctx context.Context, v view) error {
	g.mu.Lock()
	fence := g.fence
	g.mu.Unlock()
	if v.setIndex != 0 {
		_, err := g.store.PutPlacements(ctx, fence, state.PlacementWrite{Set: v.set, CAS: v.setIndex, Delete: true})
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return err
		}
	}
	g.finish(v, nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.jobs[v.key]; j != nil && !j.known { // it may have been run again meanwhile
		delete(g.jobs, v.key)
	} else if j != nil {
		j.set, j.setIndex = pool.PlacementSet{Namespace: v.key.namespace, JobID: v.key.id}, 0
	}
	g.changed()
	return nil
}
