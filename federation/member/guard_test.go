package member

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

func rewriteText(t *testing.T, w words, text string) (string, bool) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	var value any
	must.NoError(t, decoder.Decode(&value))
	value, kept := w.rewrite(value)
	out, err := json.Marshal(value)
	must.NoError(t, err)
	return string(out), kept
}

// onceJob must not run twice: it is stopped 9 s after the pool was heard last.
func onceJob(id string) *api.Job {
	job := shellJob(id, 1, "true")
	job.TaskGroups[0].Disconnect = &api.DisconnectStrategy{StopOnClientAfter: ptr(9 * time.Second)}
	return job
}

func newGuard(t *testing.T) (*bench, *guard) {
	t.Helper()
	b := newBench(t)
	for _, job := range []*api.Job{onceJob("once"), shellJob("any", 1, "true")} {
		_, err := b.placements.Commit(t.Context(), commit(job, 1, pool.GroupShare{Count: 1}))
		must.NoError(t, err)
	}
	b.refresh()
	return b, &guard{placements: b.placements, contact: b.contact, renewed: map[jobKey]time.Duration{}}
}

// tick lets time pass and has the guard look.
func (b *bench) tick(g *guard, d time.Duration) {
	b.boot += d
	b.wall = b.wall.Add(d)
	g.check(b.t.Context())
	b.refresh()
}

func TestGuardStops(t *testing.T) {
	b, g := newGuard(t)
	b.contact.made(b.boot)
	b.tick(g, 0)
	must.Eq(t, 1, b.cluster.renewals)
	b.tick(g, time.Second)
	must.Eq(t, 1, b.cluster.renewals, must.Sprint("a third of the time has not passed"))
	b.contact.made(b.boot)
	b.tick(g, 2*time.Second)
	must.Eq(t, 2, b.cluster.renewals)
	b.tick(g, 4*time.Second)
	must.Eq(t, 2, b.cluster.renewals, must.Sprint("no renewal without the pool"))
	b.tick(g, 2900*time.Millisecond)
	must.Len(t, 0, b.cluster.stopped)
	b.tick(g, 200*time.Millisecond)
	must.Eq(t, []jobKey{{"pool-default", "once"}}, b.cluster.stopped, must.Sprint("9 s, and only what must not run twice"))
	b.tick(g, time.Second)
	must.Len(t, 1, b.cluster.stopped)
	must.MapEmpty(t, b.cluster.variables, must.Sprint("the lease of what has ended is removed"))
}

// TestGuardRestarts checks that an agent that was restarted without the pool counts from its predecessor's contact.
func TestGuardRestarts(t *testing.T) {
	b, g := newGuard(t)
	b.cluster.variables["pool-default "+leasePath("once")] = &api.Variable{ModifyTime: b.wall.Add(-7 * time.Second).UnixNano()}
	b.tick(g, time.Second)
	must.Len(t, 0, b.cluster.stopped)
	must.Eq(t, 0, b.cluster.renewals, must.Sprint("nothing is renewed before the pool was heard"))
	b.tick(g, 1100*time.Millisecond)
	must.Len(t, 1, b.cluster.stopped)
}

func TestGuardHurriesForHeldTasks(t *testing.T) {
	b, g := newGuard(t)
	b.cluster.allocations = []*api.AllocationListStub{{ID: "a", Namespace: "pool-default", JobID: "once", ClientStatus: "pending"}}
	b.refresh()
	for want := 1; want <= 3; want++ {
		b.contact.made(b.boot)
		b.tick(g, guardEvery)
		must.Eq(t, want, b.cluster.renewals)
	}
}

// TestGuardHolds checks that what the pool may have given to others starts only while the pool answers, and is let go
// at once when it answers again; it is never stopped.
func TestGuardHolds(t *testing.T) {
	b := newBench(t)
	job := shellJob("held", 1, "true")
	job.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: ptr(20 * time.Second)}
	_, err := b.placements.Commit(t.Context(), commit(job, 1, pool.GroupShare{Count: 1}))
	must.NoError(t, err)
	b.refresh()
	g := &guard{placements: b.placements, contact: b.contact, renewed: map[jobKey]time.Duration{}}
	b.tick(g, time.Second)
	must.Eq(t, 0, b.cluster.renewals, must.Sprint("nothing starts before the agent has synchronised"))
	b.contact.made(b.boot)
	b.tick(g, time.Second)
	must.Eq(t, 1, b.cluster.renewals)
	b.tick(g, 25*time.Second)
	must.Eq(t, 1, b.cluster.renewals, must.Sprint("it may be another's by now"))
	b.contact.made(b.boot)
	b.tick(g, guardEvery)
	must.Eq(t, 2, b.cluster.renewals)
	b.tick(g, time.Hour)
	must.Len(t, 0, b.cluster.stopped)
}

func TestHoldConfig(t *testing.T) {
	job := shellJob("held", 1, "true")
	job.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: ptr(20 * time.Second)}
	addHold(job, job.TaskGroups[0])
	must.MapNotContainsKey(t, task(job).Config, "lease", must.Sprint("only driver runc keeps leases"))
	task(job).Driver = leaseDriver
	addHold(job, job.TaskGroups[0])
	must.Eq(t, any([]map[string]any{{"file": leaseFile, "ttl": holdTTL.String()}}), task(job).Config["lease"])
	must.Eq(t, 20*time.Second, *job.TaskGroups[0].Disconnect.LostAfter, must.Sprint("Nomad's own clock stays"))
}

func TestLeaseConfig(t *testing.T) {
	job := onceJob("once")
	task(job).Driver = leaseDriver
	share := *job
	share.TaskGroups[0].Tasks = cloneTasks(job.TaskGroups[0].Tasks)
	addLease(&share, share.TaskGroups[0])
	must.Nil(t, share.TaskGroups[0].Disconnect.StopOnClientAfter, must.Sprint("Nomad's own would kill healthy tasks"))
	must.Eq(t, 24*time.Second, *share.TaskGroups[0].Disconnect.LostAfter)
	must.False(t, *share.TaskGroups[0].Disconnect.Replace)
	must.Eq(t, any([]map[string]any{{"file": leaseFile, "ttl": "9s"}}), task(&share).Config["lease"])
	must.Eq(t, leaseFile, *task(&share).Templates[0].DestPath)
	must.StrContains(t, *task(&share).Templates[0].EmbeddedTmpl, `nomadVar "nomad/jobs/once"`)

	plain := shellJob("plain", 1, "true")
	task(plain).Driver = leaseDriver
	addLease(plain, plain.TaskGroups[0])
	must.MapNotContainsKey(t, task(plain).Config, "lease")
	must.Len(t, 0, task(plain).Templates)
}

func TestNodeMarker(t *testing.T) {
	b := newBench(t)
	node := gpuNode("a", 1)
	node.Meta = map[string]string{pool.MetaCountry: "DE", pool.MetaMember: "fr-par-1", pool.MetaRegion: "old"}
	marker := &nodeMarker{
		cluster: b.cluster, want: b.config.poolMeta(), logger: hclog.NewNullLogger(), now: func() time.Time { return b.wall },
		tried: map[string]time.Time{},
	}
	marker.mark(t.Context(), &snapshot{nodes: []*api.Node{node}})
	got := b.cluster.meta["a"]
	must.Eq(t, "FR", *got[pool.MetaCountry])
	must.Eq(t, "1.5", *got[pool.MetaPrice])
	must.MapContainsKey(t, got, pool.MetaRegion)
	must.Nil(t, got[pool.MetaRegion], must.Sprint("what the owner no longer says is removed"))
	must.MapNotContainsKey(t, got, pool.MetaMember)
	delete(b.cluster.meta, "a")
	marker.mark(t.Context(), &snapshot{nodes: []*api.Node{node}})
	must.MapEmpty(t, b.cluster.meta, must.Sprint("not again at once"))
}

func TestReporter(t *testing.T) {
	stub := func(id, namespace string, index uint64) *api.AllocationListStub {
		return &api.AllocationListStub{ID: id, Namespace: namespace, JobID: "x", ModifyIndex: index, AllocatedResources: &api.AllocatedResources{}}
	}
	jobs := map[jobKey]*placed{{"pool-a", "x"}: {
		tag: tag{Namespace: "a"}, stub: &api.JobListStub{JobSummary: &api.JobSummary{Namespace: "pool-a", ModifyIndex: 1}},
	}}
	see := func(list ...*api.AllocationListStub) *snapshot { return &snapshot{allocations: list, jobs: jobs} }
	r := &reporter{words: words{prefix: "pool-"}}
	status, news := r.next(see(stub("1", "pool-a", 5), stub("2", "default", 5), stub("3", "pool-b", 5)))
	must.True(t, news)
	must.True(t, status.Full)
	must.Len(t, 1, status.Allocations, must.Sprint("neither the owner's nor what the agent has not placed"))
	must.Eq(t, "a", status.Allocations[0].Namespace)
	must.Nil(t, status.Allocations[0].AllocatedResources)
	must.Eq(t, "a", status.Jobs["a/x"].Namespace)
	_, news = r.next(see(stub("1", "pool-a", 5)))
	must.False(t, news)
	status, news = r.next(see(stub("1", "pool-a", 6), stub("4", "pool-a", 6)))
	must.True(t, news)
	must.False(t, status.Full)
	must.Len(t, 2, status.Allocations)
	must.MapEmpty(t, status.Jobs)
	status, _ = r.next(see(stub("4", "pool-a", 6)))
	must.True(t, status.Full, must.Sprint("what Nomad forgot is forgotten"))
	r.failed()
	status, news = r.next(see(stub("4", "pool-a", 6)))
	must.True(t, news && status.Full && status.Sequence == 4)
}

// TestManyAllocations checks that a member with many allocations tells of them in messages that a session takes.
func TestManyAllocations(t *testing.T) {
	s := &snapshot{jobs: map[jobKey]*placed{{"pool-a", "x"}: {
		tag: tag{Namespace: "a"}, stub: &api.JobListStub{JobSummary: &api.JobSummary{Namespace: "pool-a", ModifyIndex: 1}},
	}}}
	state := &api.TaskState{Events: make([]*api.TaskEvent, 10)} // as many as Nomad keeps
	for i := range state.Events {
		state.Events[i] = &api.TaskEvent{Type: "Terminated", DisplayMessage: strings.Repeat("x", 300)}
	}
	for i := range 6000 {
		s.allocations = append(s.allocations, &api.AllocationListStub{
			ID: strconv.Itoa(i), Namespace: "pool-a", JobID: "x", ModifyIndex: 1, TaskStates: map[string]*api.TaskState{"t": state},
		})
	}
	r := &reporter{words: words{prefix: "pool-"}}
	status, news := r.next(s)
	must.True(t, news && status.Full)
	told := map[string]bool{}
	messages := parts(status)
	for i, message := range messages {
		text, err := json.Marshal(message)
		must.NoError(t, err)
		must.Less(t, 8<<20, len(text))
		must.Eq(t, i == len(messages)-1, message.Full)
		must.Eq(t, i == len(messages)-1, len(message.Jobs) == 1)
		for _, stub := range message.Allocations {
			told[stub.ID] = true
		}
	}
	must.MapLen(t, 6000, told)
	must.Len(t, 6000, messages[len(messages)-1].Known)
	must.Eq(t, []pool.Status{{Sequence: 7, Full: true}}, parts(pool.Status{Sequence: 7, Full: true}))
}
