package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// maxVersions is how many earlier versions of a job are kept, as Nomad keeps them by default.
const maxVersions = 5

func (g *Gateway) registerJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.JobRegisterRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	spec, err := g.prepare(c, request.Job)
	if err != nil {
		return nil, err
	}
	if id := c.PathValue("id"); id != "" && id != *spec.ID {
		return nil, fail(http.StatusBadRequest, "Job ID does not match request path")
	}
	return g.submit(c, spec, submission{
		source: request.Submission, enforce: request.EnforceIndex, modifyIndex: request.JobModifyIndex,
		preserve: request.PreserveCounts, trigger: "job-register",
	})
}

// submission is how a job comes in.
type submission struct {
	source      *api.JobSubmission
	enforce     bool
	modifyIndex uint64
	preserve    bool
	trigger     string
}

// submit writes a job with the user's token and sets it to work. The write is the whole of the submission: if the
// gateway dies right after it, the next leader finds the job and places it.
func (g *Gateway) submit(c *call, spec *api.Job, s submission) (any, error) {
	warnings, errs := check(spec)
	if len(errs) > 0 {
		return nil, fail(http.StatusBadRequest, "%s", (&multierror.Error{Errors: errs}).Error())
	}
	err := g.canWrite(c, *spec.Namespace)
	if err != nil {
		return nil, err
	}
	key := jobKey{*spec.Namespace, *spec.ID}
	for range 3 {
		out, err := g.submitOnce(c, key, spec, s)
		if !errors.Is(err, state.ErrConflict) {
			if err == nil {
				out.Warnings = warnings
			}
			return out, err
		}
		err = g.refresh(c.Context(), key) // somebody else wrote it, such as a leader that was deposed meanwhile
		if err != nil {
			return nil, err
		}
	}
	return nil, fail(http.StatusConflict, "job %q keeps changing: try again", key.id)
}

func (g *Gateway) submitOnce(c *call, key jobKey, spec *api.Job, s submission) (*api.JobRegisterResponse, error) {
	g.mu.Lock()
	var before *job
	if j := g.jobs[key]; j != nil && j.known {
		copied := *j
		before = &copied
	}
	g.mu.Unlock()
	err := s.checkIndex(before)
	if err != nil {
		return nil, err
	}
	if before != nil && isParent(before.record.Job) != isParent(spec) {
		return nil, fail(http.StatusBadRequest, "a parameterized job cannot become another kind of job, nor another kind parameterized: purge it first")
	}
	record, cas := g.nextRecord(before, spec, s)
	if isParent(spec) {
		record.EvalID = "" // there is nothing to place
	}
	index, err := g.store.PutJob(c.Context(), c.token, &record, cas)
	if errors.Is(err, state.ErrTooLarge) && len(record.Versions) > 0 {
		record.Versions = nil // its history is worth less than the job
		index, err = g.store.PutJob(c.Context(), c.token, &record, cas)
	}
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.settle(key, record, index)
	if isParent(spec) {
		g.touch(j)
		c.index = j.index
		return &api.JobRegisterResponse{JobModifyIndex: *record.Job.JobModifyIndex}, nil
	}
	eval := g.newEval(j, s.trigger, record.EvalID)
	g.work.add(key)
	c.index = eval.CreateIndex
	return &api.JobRegisterResponse{EvalID: eval.ID, EvalCreateIndex: eval.CreateIndex, JobModifyIndex: *record.Job.JobModifyIndex}, nil
}

func (s submission) checkIndex(before *job) error {
	if !s.enforce {
		return nil
	}
	have := uint64(0)
	if before != nil {
		have = deref(before.record.Job.JobModifyIndex)
	}
	switch {
	case s.modifyIndex == have:
		return nil
	case s.modifyIndex == 0:
		return fail(http.StatusConflict, "%s 0: job already exists", api.RegisterEnforceIndexErrPrefix)
	case have == 0:
		return fail(http.StatusConflict, "%s %d: job does not exist", api.RegisterEnforceIndexErrPrefix, s.modifyIndex)
	}
	return fail(http.StatusConflict, "%s %d: job exists with conflicting job modify index: %d", api.RegisterEnforceIndexErrPrefix, s.modifyIndex, have)
}

// nextRecord makes the record that follows before, which may be nil.
func (g *Gateway) nextRecord(before *job, spec *api.Job, s submission) (pool.JobRecord, uint64) {
	index, now := g.index.next(), g.settings.now().UnixNano()
	next := *spec
	next.Stop, next.Status = ptr(false), ptr("pending")
	next.CreateIndex, next.ModifyIndex, next.JobModifyIndex, next.Version = ptr(index), ptr(index), ptr(index), ptr(uint64(0))
	next.SubmitTime = ptr(now)
	record := pool.JobRecord{Job: &next, Submission: s.source, SubmitTime: now, EvalID: newID()}
	if before == nil {
		return record, 0
	}
	old := before.record.Job
	if s.preserve {
		keepCounts(&next, old)
	}
	next.CreateIndex = old.CreateIndex
	record.Versions = before.record.Versions
	if sameSpec(old, &next) && !before.record.Stopped {
		next.Version, next.JobModifyIndex, next.SubmitTime = old.Version, old.JobModifyIndex, old.SubmitTime
		record.SubmitTime = before.record.SubmitTime
		return record, before.consulIndex
	}
	next.Version = ptr(deref(old.Version) + 1)
	record.Versions = append([]*api.Job{old}, record.Versions...)
	record.Versions = record.Versions[:min(len(record.Versions), maxVersions)]
	return record, before.consulIndex
}

func keepCounts(next, old *api.Job) {
	for i, tg := range next.TaskGroups {
		for _, was := range old.TaskGroups {
			if deref(was.Name) == deref(tg.Name) {
				copied := *tg
				copied.Count = was.Count
				next.TaskGroups[i] = &copied
			}
		}
	}
}

// settle puts a record that was just written into memory, unless somebody else's later one is there already. The caller
// holds mu.
func (g *Gateway) settle(key jobKey, record pool.JobRecord, consulIndex uint64) *job {
	j := g.jobs[key]
	if j == nil {
		j = newJob(key)
		g.jobs[key] = j
	}
	if j.consulIndex > consulIndex {
		return j
	}
	j.record, j.consulIndex, j.known = record, consulIndex, true
	clear(j.excluded) // a "no" to the last version says nothing about this one
	clear(j.refused)
	j.retryAt, j.failures = time.Time{}, 0
	return j
}

// refresh reads a job anew after somebody else changed it.
func (g *Gateway) refresh(ctx context.Context, key jobKey) error {
	g.mu.Lock()
	before := uint64(0)
	if j := g.jobs[key]; j != nil {
		before = j.consulIndex
	}
	g.mu.Unlock()
	entry, err := g.store.GetJob(ctx, key.namespace, key.id)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.adopt(entry)
		if j := g.jobs[key]; j != nil {
			g.restoreEval(j)
		}
	} else if j := g.jobs[key]; j != nil && j.consulIndex == before {
		j.known = false
	}
	g.work.add(key)
	return nil
}

func (g *Gateway) stopJob(_ http.ResponseWriter, c *call) (any, error) {
	key := jobKey{c.namespace, c.PathValue("id")}
	err := g.canWrite(c, key.namespace)
	if err != nil {
		return nil, err
	}
	purge := c.URL.Query().Get("purge") == "true"
	g.mu.Lock()
	j := g.jobs[key]
	if j == nil || !j.known {
		g.mu.Unlock()
		return nil, fail(http.StatusNotFound, "job not found")
	}
	record, cas := j.record, j.consulIndex
	g.mu.Unlock()
	next := *record.Job
	index := g.index.next()
	next.Stop, next.ModifyIndex, next.JobModifyIndex = ptr(true), ptr(index), ptr(index)
	record.Job, record.Stopped, record.EvalID = &next, true, newID()
	if isParent(&next) {
		record.EvalID = ""
	}
	if purge {
		err = g.store.DeleteJob(c.Context(), c.token, key.namespace, key.id, cas)
	} else {
		cas, err = g.store.PutJob(c.Context(), c.token, &record, cas)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot stop job %q: %w", key.id, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j = g.settle(key, record, cas)
	if purge && j.consulIndex == cas { // else it was run again already
		j.known = false
	}
	if isParent(&next) { // what was dispatched from it goes on
		g.touch(j)
		g.work.add(key)
		c.index = j.index
		return &api.JobDeregisterResponse{JobModifyIndex: index}, nil
	}
	eval := g.newEval(j, "job-deregister", record.EvalID)
	g.cancelBlocked(j)
	g.work.add(key)
	c.index = eval.CreateIndex
	return &api.JobDeregisterResponse{EvalID: eval.ID, EvalCreateIndex: eval.CreateIndex, JobModifyIndex: index}, nil
}

// cancelBlocked ends the wait for capacity of a job that was stopped. The caller holds mu.
func (g *Gateway) cancelBlocked(j *job) {
	if blocked := g.evals.byID[j.blockedID]; blocked != nil {
		g.setEval(blocked, func(e *api.Evaluation) {
			e.Status, e.StatusDescription = api.EvalStatusCancelled, "job was stopped"
		})
	}
	j.blockedID = ""
}

func (g *Gateway) evaluateJob(_ http.ResponseWriter, c *call) (any, error) {
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	err = g.canWrite(c, key.namespace)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	if j == nil || !j.known {
		return nil, fail(http.StatusNotFound, "job not found")
	}
	if isParent(j.record.Job) {
		return nil, fail(http.StatusBadRequest, "can't evaluate parameterized job")
	}
	clear(j.excluded)
	eval := g.newEval(j, "job-eval", newID())
	g.work.add(key)
	c.index = eval.CreateIndex
	return &api.JobRegisterResponse{EvalID: eval.ID, EvalCreateIndex: eval.CreateIndex, JobModifyIndex: deref(j.record.Job.JobModifyIndex)}, nil
}

// copyOf returns a copy of the job's specification for a change to start from.
func (g *Gateway) copyOf(key jobKey) (*api.Job, []*api.Job, *api.JobSubmission, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	if j == nil || !j.known {
		return nil, nil, nil, fail(http.StatusNotFound, "job not found")
	}
	out := *j.record.Job
	return &out, j.record.Versions, j.record.Submission, nil
}

func (g *Gateway) scaleJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.ScalingRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	name := request.Target["Group"]
	spec, _, source, err := g.copyOf(key)
	if err != nil {
		return nil, err
	}
	if request.Count == nil || *request.Count < 0 {
		return nil, fail(http.StatusBadRequest, "scaling needs a count that is not negative")
	}
	groups, found := make([]*api.TaskGroup, len(spec.TaskGroups)), false
	for i, tg := range spec.TaskGroups {
		part := *tg
		if deref(tg.Name) == name || name == "" && len(groups) == 1 {
			part.Count, found = ptr(int(*request.Count)), true
		}
		groups[i] = &part
	}
	if !found {
		return nil, fail(http.StatusBadRequest, "task group %q specified for scaling does not exist in job", name)
	}
	spec.TaskGroups, spec.Stop = groups, nil
	return g.submit(c, spec, submission{
		source: source, enforce: request.JobModifyIndex != 0, modifyIndex: request.JobModifyIndex, trigger: "job-scaling",
	})
}

func (g *Gateway) revertJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.JobRevertRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	now, versions, _, err := g.copyOf(key)
	if err != nil {
		return nil, err
	}
	if want := request.EnforcePriorVersion; want != nil && *want != deref(now.Version) {
		return nil, fail(http.StatusConflict, "Current job has version %d; enforcing version %d", deref(now.Version), *want)
	}
	if request.JobVersion == deref(now.Version) {
		return nil, fail(http.StatusBadRequest, "can't revert to current version")
	}
	for _, old := range versions {
		if deref(old.Version) == request.JobVersion {
			copied := *old
			return g.submit(c, &copied, submission{trigger: "job-register"})
		}
	}
	return nil, fail(http.StatusNotFound, "job %q in namespace %q at version %d not found", key.id, key.namespace, request.JobVersion)
}
