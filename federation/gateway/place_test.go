package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

func TestRunStopPurge(t *testing.T) {
	p := newPool(t, france(), japan())
	eval := p.run(testJob("web", "service", 6))
	must.Eq(t, "complete", eval.Status)
	must.MapEmpty(t, eval.FailedTGAllocs)
	must.Eq(t, map[string]int{"fr-par-1": 4, "jp-tyo-1": 2}, p.live("web"))
	p.eventually("six allocations", func() bool { return len(p.gateway.stubs(p.gateway.jobs[jobKey{"default", "web"}])) == 6 })
	job, _, err := p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, "running", *job.Status)

	id, _, err := p.client.Jobs().Deregister("web", false, nil)
	must.NoError(t, err)
	p.await(id)
	must.MapEmpty(t, p.live("web"))
	must.MapEmpty(t, p.members["fr-par-1"].runs)
	job, _, err = p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, "dead", *job.Status)

	id, _, err = p.client.Jobs().Deregister("web", true, nil)
	must.NoError(t, err)
	p.await(id)
	_, _, err = p.client.Jobs().Info("web", nil)
	must.ErrorContains(t, err, "job not found")
	must.MapEmpty(t, p.store.jobs)
	must.MapEmpty(t, p.store.sets)
}

// stops reports whether a member was told to stop a job.
func (m *fakeMember) stopsOf(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, stop := range m.stops {
		if stop.JobID == id {
			n++
		}
	}
	return n
}

func (m *fakeMember) runsJob(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.runs[jobKey{"default", id}]
	return ok
}

func (m *fakeMember) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// A submission costs Consul one write for the job and one for the placements before the user's tool has its answer,
// and one after it.
func TestFewWrites(t *testing.T) {
	p := newPool(t, france(), japan())
	p.run(testJob("web", "service", 2))
	p.eventually("the placement is registered", func() bool {
		return p.gateway.jobs[jobKey{"default", "web"}].set.Placements[0].State == pool.PlacementRegistered
	})
	must.Eq(t, 1, p.store.jobWrites)
	must.Eq(t, 2, p.store.setWrites)
}

func TestRefusalAsksTheNext(t *testing.T) {
	p := newPool(t, france(), japan())
	p.members["fr-par-1"].set(func() { p.members["fr-par-1"].refuse = "the owner forbids it" })
	eval := p.run(testJob("web", "service", 2))
	must.MapEmpty(t, eval.FailedTGAllocs)
	must.Eq(t, map[string]int{"jp-tyo-1": 2}, p.live("web"))
}

// A "no" is asked about again after a while, though nothing in the member's offer has changed.
func TestRefusalIsForgotten(t *testing.T) {
	p := newPool(t, france())
	m := p.members["fr-par-1"]
	m.set(func() { m.refuse = "my Nomad is away" })
	eval := p.run(testJob("web", "service", 1))
	must.Eq(t, 1, eval.FailedTGAllocs["g"].ConstraintFiltered["member fr-par-1: my Nomad is away"])
	m.set(func() { m.refuse = "" })
	p.pass(29 * time.Second)
	must.MapEmpty(t, p.live("web"))
	p.pass(2 * time.Second)
	must.Eq(t, "complete", p.awaitStatus(eval.BlockedEval, "complete"))
	must.Eq(t, map[string]int{"fr-par-1": 1}, p.live("web"))
}

func TestBlockedUntilThereIsRoom(t *testing.T) {
	p := newPool(t, france())
	p.members["fr-par-1"].set(func() { p.members["fr-par-1"].gpus = 1 })
	p.members["fr-par-1"].offer()
	eval := p.run(testJob("web", "service", 3))
	must.Eq(t, "complete", eval.Status)
	must.Eq(t, 1, eval.FailedTGAllocs["g"].CoalescedFailures)
	must.Eq(t, 1, eval.FailedTGAllocs["g"].DimensionExhausted["devices"])
	must.Eq(t, map[string]int{"g": 2}, eval.QueuedAllocations)
	must.NotEq(t, "", eval.BlockedEval)
	must.Eq(t, map[string]int{"fr-par-1": 1}, p.live("web"))

	p.join(japan()) // room appears, and nobody has to ask again
	must.Eq(t, "complete", p.awaitStatus(eval.BlockedEval, "complete"))
	must.Eq(t, map[string]int{"fr-par-1": 1, "jp-tyo-1": 2}, p.live("web"))
}

func (p *fakePool) awaitStatus(id, status string) string {
	p.gateway.until(context.Background(), soon, func() bool { return p.gateway.evals.get(id).Status == status })
	p.gateway.mu.Lock()
	defer p.gateway.mu.Unlock()
	return p.gateway.evals.get(id).Status
}

func TestGangIsAllOrNone(t *testing.T) {
	p := newPool(t, france(), japan())
	gang := testJob("train", "batch", 8)
	gang.TaskGroups[0].Meta = map[string]string{pool.MetaGang: "true"}
	p.members["jp-tyo-1"].set(func() { p.members["jp-tyo-1"].refuse = "busy" })
	eval := p.run(gang)
	must.NotNil(t, eval.FailedTGAllocs["g"])
	must.MapEmpty(t, p.live("train"))
	must.False(t, p.members["fr-par-1"].runsJob("train"), must.Sprint("a gang was begun without all of its members"))

	p.members["jp-tyo-1"].set(func() { p.members["jp-tyo-1"].refuse, p.members["jp-tyo-1"].gpus = "", 5 })
	p.members["jp-tyo-1"].offer()
	must.Eq(t, "complete", p.awaitStatus(eval.BlockedEval, "complete"))
	shares := map[string]pool.GroupShare{}
	for _, placement := range p.store.set("train").Placements {
		shares[placement.Member] = placement.Groups["g"]
	}
	must.Eq(t, pool.GroupShare{Count: 4, Offset: 0, Total: 8}, shares["fr-par-1"])
	must.Eq(t, pool.GroupShare{Count: 4, Offset: 4, Total: 8}, shares["jp-tyo-1"])
}

func TestBatchEndsAndIsNotRunAgain(t *testing.T) {
	p := newPool(t, france())
	m := p.members["fr-par-1"]
	m.set(func() { m.finish = true })
	p.run(testJob("once", "batch", 2))
	key := jobKey{"default", "once"}
	p.eventually("the job is dead", func() bool { return p.gateway.status(p.gateway.jobs[key]) == "dead" })
	must.Eq(t, pool.PlacementComplete, p.store.set("once").Placements[0].State)

	// Nomad forgets the job after some hours, the gateway restarts: it must not run again.
	m.set(func() { clear(m.runs); clear(m.allocs) })
	commits := m.commitCount()
	p.restart()
	p.eventually("the evaluation ends", func() bool { return p.gateway.jobs[key].evalID == "" })
	must.Eq(t, commits, m.commitCount())
	must.Eq(t, "dead", p.statusOf("once"))
}

func (p *fakePool) statusOf(id string) string {
	p.t.Helper()
	job, _, err := p.client.Jobs().Info(id, nil)
	must.NoError(p.t, err)
	return *job.Status
}

func TestUpdateKeepsPlacesAndRaisesTheEpoch(t *testing.T) {
	p := newPool(t, france(), japan())
	p.run(testJob("web", "service", 5))
	before := p.store.set("web")
	changed := testJob("web", "service", 6)
	changed.TaskGroups[0].Tasks[0].Env = map[string]string{"A": "1"}
	p.run(changed)
	after := p.store.set("web")
	must.Eq(t, map[string]int{"fr-par-1": 4, "jp-tyo-1": 2}, p.live("web"))
	must.Eq(t, before.Placements[0].ID, after.Placements[0].ID)
	must.Greater(t, before.Epoch, after.Epoch)
	must.Eq(t, 1, after.JobVersion)
	p.eventually("members have the new version", func() bool {
		m := p.members["fr-par-1"]
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.runs[jobKey{"default", "web"}].Job.TaskGroups[0].Tasks[0].Env["A"] == "1"
	})

	p.run(testJob("web", "service", 1))
	must.Eq(t, map[string]int{"fr-par-1": 1}, p.live("web"))
	must.False(t, p.members["jp-tyo-1"].runsJob("web"))
}

func TestCommitIsRetried(t *testing.T) {
	p := newPool(t, france())
	m := p.members["fr-par-1"]
	m.set(func() { m.broken = true })
	reply, _, err := p.client.Jobs().Register(testJob("web", "service", 1), nil)
	must.NoError(t, err)
	key := jobKey{"default", "web"}
	p.eventually("the commit failed", func() bool { return p.gateway.jobs[key].failures > 0 })
	m.set(func() { m.broken = false })
	p.pass(2 * time.Second)
	must.Eq(t, "complete", p.await(reply.EvalID).Status)
	must.True(t, m.runsJob("web"))
}

// A member may remember a higher epoch of a job than Consul does: the job's next placement goes beyond it.
func TestStaleEpochIsRaised(t *testing.T) {
	p := newPool(t, france())
	m := p.members["fr-par-1"]
	key := jobKey{"default", "web"}
	ahead := uint64(p.clock().UnixMilli()) + 50
	m.set(func() {
		m.runs[key] = pool.CommitRequest{PlacementRef: pool.PlacementRef{Namespace: "default", JobID: "web", PlacementID: "old", Epoch: ahead}}
	})
	reply, _, err := p.client.Jobs().Register(testJob("web", "service", 1), nil)
	must.NoError(t, err)
	p.eventually("the commit was refused", func() bool { return p.gateway.jobs[key].failures > 0 })
	p.pass(time.Second)
	must.Eq(t, "complete", p.await(reply.EvalID).Status)
	m.mu.Lock()
	defer m.mu.Unlock()
	must.Greater(t, ahead, m.runs[key].Epoch)
}
