package gateway

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/nomad/api"
)

// maxEvals bounds the memory that evaluations take; the oldest that have ended go first.
const maxEvals = 20_000

// evalTable holds the pool's evaluations. They are an account of what the gateway did, for users to read: nothing is
// decided by them, so they live in memory only. Gateway.mu guards it.
type evalTable struct {
	byID  map[string]*api.Evaluation
	byJob map[jobKey][]string
	order []string
	// members holds evaluations of members' own that a user was told of.
	members map[string]foreignEval
}

type foreignEval struct{ alias, namespace string }

// foreign remembers whose a member's evaluation is. When there are too many all are forgotten: they matter for the few
// seconds that a tool watches one.
func (t *evalTable) foreign(id string, e foreignEval) {
	if len(t.members) >= maxEvals {
		clear(t.members)
	}
	t.members[id] = e
}

func newEvalTable() *evalTable {
	return &evalTable{byID: map[string]*api.Evaluation{}, byJob: map[jobKey][]string{}, members: map[string]foreignEval{}}
}

// get returns an evaluation, an empty one if it is not known.
func (t *evalTable) get(id string) *api.Evaluation {
	if e := t.byID[id]; e != nil {
		return e
	}
	return &api.Evaluation{}
}

func (t *evalTable) put(e *api.Evaluation) {
	if t.byID[e.ID] == nil {
		key := jobKey{e.Namespace, e.JobID}
		t.byJob[key] = append(t.byJob[key], e.ID)
		t.order = append(t.order, e.ID)
	}
	t.byID[e.ID] = e
	for len(t.order) > maxEvals {
		oldest := t.byID[t.order[0]]
		t.order = t.order[1:]
		key := jobKey{oldest.Namespace, oldest.JobID}
		t.byJob[key] = slices.DeleteFunc(t.byJob[key], func(id string) bool { return id == oldest.ID })
		if len(t.byJob[key]) == 0 {
			delete(t.byJob, key)
		}
		delete(t.byID, oldest.ID)
	}
}

// list returns evaluations, newest first, of one job or of all when key is zero.
func (t *evalTable) list(key jobKey) []*api.Evaluation {
	var out []*api.Evaluation
	if key == (jobKey{}) {
		out = slices.Collect(maps.Values(t.byID))
	} else {
		for _, id := range t.byJob[key] {
			out = append(out, t.byID[id])
		}
	}
	slices.SortFunc(out, func(a, b *api.Evaluation) int {
		return cmp.Or(cmp.Compare(b.CreateIndex, a.CreateIndex), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// newEval makes a pending evaluation of a job and sets the job to work. The caller holds mu.
func (g *Gateway) newEval(j *job, trigger, id string) *api.Evaluation {
	index := g.changed()
	now := g.settings.now().UnixNano()
	eval := &api.Evaluation{
		ID: id, Namespace: j.key.namespace, JobID: j.key.id, TriggeredBy: trigger, Status: api.EvalStatusPending,
		Priority: 50, Type: api.JobTypeService, CreateIndex: index, ModifyIndex: index, CreateTime: now, ModifyTime: now,
	}
	if spec := j.record.Job; spec != nil {
		eval.Priority, eval.Type, eval.JobModifyIndex = deref(spec.Priority), deref(spec.Type), deref(spec.JobModifyIndex)
	}
	if previous := g.evals.byID[j.evalID]; previous != nil && previous.Status == api.EvalStatusPending {
		g.setEval(previous, func(e *api.Evaluation) {
			e.Status, e.StatusDescription, e.NextEval = api.EvalStatusCancelled, "cancelled after more recent eval was processed", id
		})
	}
	g.evals.put(eval)
	j.evalID, j.index = id, index
	return eval
}

// setEval changes a copy of an evaluation, since readers hold the old one. The caller holds mu.
func (g *Gateway) setEval(old *api.Evaluation, change func(*api.Evaluation)) {
	next := *old
	change(&next)
	next.ModifyIndex, next.ModifyTime = g.changed(), g.settings.now().UnixNano()
	g.evals.put(&next)
}

// finishEval records the outcome of a reconciliation: what could not be placed blocks and waits for capacity. The
// caller holds mu.
func (g *Gateway) finishEval(j *job, failed map[string]*api.AllocationMetric) {
	queued := g.allQueued(j)
	blocked := g.evals.byID[j.blockedID]
	switch {
	case len(failed) == 0 && blocked != nil:
		g.setEval(blocked, func(e *api.Evaluation) {
			e.Status, e.FailedTGAllocs, e.QueuedAllocations, e.DeploymentID = api.EvalStatusComplete, nil, queued, g.deploymentID(j)
		})
		j.blockedID = ""
	case len(failed) > 0 && blocked != nil:
		g.setEval(blocked, func(e *api.Evaluation) { e.FailedTGAllocs, e.QueuedAllocations = failed, queued })
	case len(failed) > 0:
		g.block(j, failed, queued)
	}
	if eval := g.evals.byID[j.evalID]; eval != nil && eval.Status == api.EvalStatusPending {
		g.setEval(eval, func(e *api.Evaluation) {
			e.Status, e.FailedTGAllocs, e.QueuedAllocations = api.EvalStatusComplete, failed, queued
			if j.known && !j.record.Stopped {
				e.DeploymentID = g.deploymentID(j)
			}
			if len(failed) > 0 {
				e.BlockedEval = j.blockedID
			}
		})
	}
	j.evalID = ""
	g.touch(j)
}

func (g *Gateway) block(j *job, failed map[string]*api.AllocationMetric, queued map[string]int) {
	previous := j.evalID
	id := newID()
	index, now := g.changed(), g.settings.now().UnixNano()
	eval := &api.Evaluation{
		ID: id, Namespace: j.key.namespace, JobID: j.key.id, TriggeredBy: "queued-allocs", Status: api.EvalStatusBlocked,
		StatusDescription: "created to place remaining allocations", PreviousEval: previous,
		Priority: deref(j.record.Job.Priority), Type: deref(j.record.Job.Type),
		FailedTGAllocs: failed, QueuedAllocations: queued, CreateIndex: index, ModifyIndex: index, CreateTime: now, ModifyTime: now,
	}
	g.evals.put(eval)
	j.blockedID = id
}

func (g *Gateway) allQueued(j *job) map[string]int {
	queued := map[string]int{}
	if j.record.Job != nil {
		for _, tg := range j.record.Job.TaskGroups {
			queued[deref(tg.Name)] = g.queued(j, tg)
		}
	}
	return queued
}

// restoreEval gives a job that was read from Consul the evaluation that its record names, so that a tool that waits
// for it over a change of leader finds it. The caller holds mu.
func (g *Gateway) restoreEval(j *job) {
	id := j.record.EvalID
	if id == "" {
		return
	}
	if known := g.evals.byID[id]; known != nil && (known.Namespace != j.key.namespace || known.JobID != j.key.id) {
		id = newID() // users can write records themselves: another job's evaluation is not theirs
	}
	g.newEval(j, "job-register", id)
}

func newID() string {
	id, err := uuid.GenerateUUID()
	if err != nil { // the kernel's randomness cannot fail on a running system
		panic("internal error: no randomness: " + err.Error())
	}
	return id
}
