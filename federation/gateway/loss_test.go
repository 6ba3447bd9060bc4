package gateway

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// losing makes a job with a disconnect block.
func losing(lost time.Duration) *api.Job {
	job := testJob("web", "service", 2)
	job.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: &lost}
	return job
}

// TestLostMember takes a member away and back: nothing new goes there at once, its allocations become unknown, its
// work is placed elsewhere when the job's own time is over and not a moment earlier, and on its return the old
// copy is stopped first of all.
func TestLostMember(t *testing.T) {
	p := newPool(t, france(), japan())
	fr, jp := p.members["fr-par-1"], p.members["jp-tyo-1"]
	p.run(losing(time.Minute))
	must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
	p.eventually("allocations", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 2 })
	old := p.store.set("web").Placements[0]
	fr.disconnect()

	p.pass(6 * time.Second)
	must.Eq(t, "suspect", p.memberState("fr-par-1"))
	p.pass(10 * time.Second)
	must.Eq(t, "detached", p.memberState("fr-par-1"))
	stubs, _, err := p.client.Jobs().Allocations("web", false, nil)
	must.NoError(t, err)
	for _, stub := range stubs {
		must.Eq(t, "unknown", stub.ClientStatus)
	}
	alloc, _, err := p.client.Allocations().Info(stubs[0].ID, nil)
	must.NoError(t, err)
	must.Eq(t, "unknown", alloc.ClientStatus)
	p.pass(43 * time.Second) // 59 s of 60
	must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
	must.False(t, jp.runsJob("web"))

	p.pass(2 * time.Second)
	p.eventually("placed elsewhere", func() bool { return p.gateway.jobs[jobKey{"default", "web"}].runsOn("jp-tyo-1") })
	p.eventually("registered", func() bool { return len(p.gateway.members["jp-tyo-1"].allocs) == 2 })
	must.Eq(t, map[string]int{"jp-tyo-1": 2}, p.live("web"))
	set := p.store.set("web")
	must.Greater(t, old.Epoch, set.Placements[len(set.Placements)-1].Epoch)
	must.Eq(t, pool.PlacementSuperseded, set.Placements[0].State)

	reply := fr.connect(p.gateway)
	must.Len(t, 1, reply.Stop)
	must.Eq(t, old.ID, reply.Stop[0].PlacementID)
	must.False(t, fr.runsJob("web"))
	must.Eq(t, map[string]int{"jp-tyo-1": 2}, p.live("web"))
}

func (p *fakePool) memberState(alias string) string {
	p.gateway.mu.Lock()
	defer p.gateway.mu.Unlock()
	return string(p.gateway.members[alias].state)
}

// TestOffersOfANewSession is a member whose agent came anew before the gateway has noticed that its older session is dead:
// the new session's offers are numbered from 1, and are the member's signs of life.
func TestOffersOfANewSession(t *testing.T) {
	p := newPool(t, france(), japan())
	fr := p.members["fr-par-1"]
	for range 20 {
		fr.offer()
	}
	p.run(losing(time.Minute))
	p.errands.wait()
	older, cancel, done := fr.session, fr.cancel, fr.done
	fr.set(func() { fr.sequence = 0 })
	fr.connect(p.gateway)
	for range 7 {
		p.pass(10 * time.Second)
	}
	must.Eq(t, "ready", p.memberState("fr-par-1"))
	must.Eq(t, "ready", p.memberState("jp-tyo-1"))
	must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
	cancel()
	_ = older.Close()
	<-done
	must.Eq(t, "ready", p.memberState("fr-par-1"))
}

// A blip is no loss: the member comes back within the job's time and everything is as it was.
func TestBlip(t *testing.T) {
	p := newPool(t, france(), japan())
	p.run(losing(time.Minute))
	fr := p.members["fr-par-1"]
	commits := fr.commitCount()
	fr.disconnect()
	p.pass(30 * time.Second)
	reply := fr.connect(p.gateway)
	must.SliceEmpty(t, reply.Stop)
	p.pass(time.Hour)
	must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
	must.Eq(t, commits, fr.commitCount())
	must.Eq(t, 0, fr.stopsOf("web"))
}

// With nobody to take over, a share stays with its silent member, which may well run it still.
func TestLostButNobodyElseHasRoom(t *testing.T) {
	p := newPool(t, france())
	p.run(losing(time.Minute))
	p.members["fr-par-1"].disconnect()
	p.pass(2 * time.Minute)
	p.eventually("the search rests", func() bool { return !p.gateway.jobs[jobKey{"default", "web"}].heldUntil.IsZero() })
	must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
	p.join(japan())
	p.eventually("placed elsewhere", func() bool { return p.gateway.jobs[jobKey{"default", "web"}].runsOn("jp-tyo-1") })
	must.Eq(t, map[string]int{"jp-tyo-1": 2}, p.live("web"))
}

func TestGroupLostAfter(t *testing.T) {
	d := func(v time.Duration) *time.Duration { return &v }
	for _, one := range []struct {
		name  string
		group api.TaskGroup
		want  time.Duration
	}{
		{"nothing said", api.TaskGroup{}, 5 * time.Minute},
		{"lost_after", api.TaskGroup{Disconnect: &api.DisconnectStrategy{LostAfter: d(time.Minute)}}, time.Minute},
		{"zero lost_after is none", api.TaskGroup{Disconnect: &api.DisconnectStrategy{LostAfter: d(0)}}, 5 * time.Minute},
		{"must not run twice", api.TaskGroup{Disconnect: &api.DisconnectStrategy{LostAfter: d(time.Second), StopOnClientAfter: d(10 * time.Second)}}, 11 * time.Second},
		{"and its tasks need time to stop", api.TaskGroup{
			Disconnect: &api.DisconnectStrategy{LostAfter: d(time.Second), StopOnClientAfter: d(10 * time.Second)}, Tasks: []*api.Task{{KillTimeout: d(5 * time.Second)}},
		}, 16 * time.Second},
		{"the stop alone", api.TaskGroup{Disconnect: &api.DisconnectStrategy{StopOnClientAfter: d(10 * time.Second)}}, 11 * time.Second},
		{"lost_after beyond the stop", api.TaskGroup{Disconnect: &api.DisconnectStrategy{LostAfter: d(time.Hour), StopOnClientAfter: d(10 * time.Second)}}, time.Hour},
		{"older words", api.TaskGroup{MaxClientDisconnect: d(2 * time.Minute)}, 2 * time.Minute},                      //nolint:staticcheck // they are what is tested
		{"older words for the stop", api.TaskGroup{StopAfterClientDisconnect: d(10 * time.Minute)}, 11 * time.Minute}, //nolint:staticcheck // likewise
	} {
		t.Run(one.name, func(t *testing.T) { must.Eq(t, one.want, groupLostAfter(&one.group, 5*time.Minute)) })
	}
}

// TestRestart checks that a gateway's memory is worth nothing: a new one finds all jobs and runs none of them twice.
func TestRestart(t *testing.T) {
	p := newPool(t, france(), japan())
	p.run(testJob("web", "service", 6))
	p.eventually("registered", func() bool { return len(p.gateway.members["jp-tyo-1"].allocs) == 2 })
	stopped := testJob("old", "service", 1)
	p.run(stopped)
	id, _, err := p.client.Jobs().Deregister("old", false, nil)
	must.NoError(t, err)
	p.await(id)
	before, index := p.store.set("web"), p.gateway.index.current()
	commits := p.members["fr-par-1"].commitCount()

	p.restart()
	p.eventually("all evaluations end", func() bool {
		return p.gateway.jobs[jobKey{"default", "web"}].evalID == "" && p.gateway.jobs[jobKey{"default", "old"}].evalID == ""
	})
	must.Eq(t, before, p.store.set("web"))
	must.Eq(t, commits, p.members["fr-par-1"].commitCount())
	must.Eq(t, "running", p.statusOf("web"))
	must.Eq(t, "dead", p.statusOf("old"))
	must.Greater(t, index, p.gateway.index.current())
	stubs, _, err := p.client.Jobs().Allocations("web", false, nil)
	must.NoError(t, err)
	must.Len(t, 6, stubs)
}

// A gateway that died between Consul's answer and its own next step: the next one finishes.
func TestCrashBetweenSteps(t *testing.T) {
	job := testJob("web", "service", 2)
	job.Canonicalize()
	for _, one := range []struct {
		name string
		set  *pool.PlacementSet
	}{
		{"the job was written and nothing else", nil},
		{"placements were written and nobody told", &pool.PlacementSet{
			Namespace: "default", JobID: "web", Epoch: 1,
			Placements: []pool.Placement{{ID: "p", Member: "fr-par-1", Epoch: 1, State: pool.PlacementCommitted, Groups: map[string]pool.GroupShare{"g": {Count: 2, Total: 2}}}},
		}},
		{"registered at a member that has lost it since", &pool.PlacementSet{
			Namespace: "default", JobID: "web", Epoch: 1,
			Placements: []pool.Placement{{ID: "p", Member: "fr-par-1", Epoch: 1, State: pool.PlacementRegistered, Groups: map[string]pool.GroupShare{"g": {Count: 2, Total: 2}}}},
		}},
	} {
		t.Run(one.name, func(t *testing.T) {
			p := newPool(t)
			p.close()
			key := jobKey{"default", "web"}
			spec := clone(*job)
			spec.Version = ptr(uint64(0))
			p.store.jobs[key] = state.Job{Value: pool.JobRecord{Job: &spec, EvalID: newID()}, Index: 1}
			if one.set != nil {
				p.store.sets[key] = state.Placements{Value: *one.set, Index: 2}
			}
			p.start()
			p.join(france())
			p.eventually("the member runs it", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 2 })
			must.Eq(t, map[string]int{"fr-par-1": 2}, p.live("web"))
		})
	}
}

// A job that the former leader took after this one had read them all is found a little later.
func TestJobOfAFormerLeader(t *testing.T) {
	p := newPool(t, france())
	job := testJob("late", "service", 1)
	job.Canonicalize()
	job.Version = ptr(uint64(0))
	p.store.mu.Lock()
	p.store.jobs[jobKey{"default", "late"}] = state.Job{Value: pool.JobRecord{Job: job, EvalID: newID()}, Index: 1}
	p.store.mu.Unlock()
	p.gateway.recheck(t.Context())
	p.eventually("it runs", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 1 })
	p.gateway.recheck(t.Context()) // and is left alone from then on
	must.Eq(t, map[string]int{"fr-par-1": 1}, p.live("late"))
}

// A deposed leader cannot place: its fence is no longer the pool's.
func TestDeposedLeaderCannotPlace(t *testing.T) {
	p := newPool(t, france())
	p.store.mu.Lock()
	p.store.fence.Session = "two"
	p.store.mu.Unlock()
	_, _, err := p.client.Jobs().Register(testJob("web", "service", 1), nil)
	must.NoError(t, err)
	p.eventually("the write was refused", func() bool { return p.gateway.jobs[jobKey{"default", "web"}].failures > 0 })
	must.False(t, p.members["fr-par-1"].runsJob("web"))
	must.MapEmpty(t, p.store.sets)
}
