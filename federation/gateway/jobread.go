package gateway

import (
	"net/http"
	"strconv"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
)

// find returns a pool job that the caller may read; the caller of find holds no lock.
func (g *Gateway) find(c *call) (jobKey, error) {
	key := jobKey{c.namespace, c.PathValue("id")}
	err := g.canRead(c, key.namespace)
	if err != nil {
		return key, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.jobs[key]; j == nil || !j.known {
		return key, fail(http.StatusNotFound, "job not found")
	}
	return key, nil
}

// read answers a query about one job: it checks the right, waits as a blocking query, and calls show with mu held. What
// show leaves for later, as a func() any, is done without it.
func (g *Gateway) read(show func(*job, *call) any) handler {
	return func(_ http.ResponseWriter, c *call) (any, error) {
		key, err := g.find(c)
		if err != nil {
			return nil, err
		}
		g.wait(c, func() uint64 { return g.indexOf(key) })
		out, err := g.showKnown(key, c, show)
		if later, ok := out.(func() any); ok {
			out = later()
		}
		return out, err
	}
}

func (g *Gateway) showKnown(key jobKey, c *call, show func(*job, *call) any) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	if j == nil || !j.known {
		return nil, fail(http.StatusNotFound, "job not found")
	}
	c.index = max(j.index, 1)
	return show(j, c), nil
}

// indexOf is when a job changed last; a job that is gone has changed now. The caller holds mu.
func (g *Gateway) indexOf(key jobKey) uint64 {
	j := g.jobs[key]
	if j == nil || !j.known {
		return g.index.current()
	}
	return j.index
}

func (g *Gateway) listJobs(w http.ResponseWriter, c *call) (any, error) {
	visible, err := g.visible(c)
	if err != nil {
		return nil, err
	}
	g.wait(c, g.index.current)
	metas := c.URL.Query().Get("meta") == "true"
	g.mu.Lock()
	var jobs []*job
	for _, j := range g.jobs {
		jobs = append(jobs, j)
	}
	g.mu.Unlock()
	var items []listed[*api.JobListStub]
	for _, j := range jobs {
		if !visible(j.key.namespace) { // may ask Consul: no lock is held
			continue
		}
		g.mu.Lock()
		if j.known {
			stub := g.jobStub(j)
			if !metas {
				stub.Meta = nil
			}
			items = append(items, listed[*api.JobListStub]{
				show: stub, filter: g.spec(j), id: j.key.id, token: j.key.namespace + "." + j.key.id,
			})
		}
		g.mu.Unlock()
	}
	return page(w, c, items)
}

// jobStub summarizes a job for lists. Nomad's CLI follows JobSummary without a look: it must be there.
func (g *Gateway) jobStub(j *job) *api.JobListStub {
	spec := j.record.Job
	return &api.JobListStub{
		ID: j.key.id, ParentID: deref(spec.ParentID), Name: deref(spec.Name), Namespace: j.key.namespace, Datacenters: spec.Datacenters,
		Type: deref(spec.Type), Priority: deref(spec.Priority), Periodic: spec.IsPeriodic(), ParameterizedJob: spec.IsParameterized(),
		Stop: j.record.Stopped, Status: g.status(j), JobSummary: g.summary(j), CreateIndex: deref(spec.CreateIndex),
		ModifyIndex: max(j.index, deref(spec.ModifyIndex)), JobModifyIndex: deref(spec.JobModifyIndex), SubmitTime: j.record.SubmitTime, Meta: spec.Meta,
	}
}

// spec is the job as users read it back. The caller holds mu.
func (g *Gateway) spec(j *job) *api.Job {
	out := *j.record.Job
	out.Stop, out.Status = ptr(j.record.Stopped), ptr(g.status(j))
	out.SubmitTime = ptr(j.record.SubmitTime)
	return &out
}

func (g *Gateway) showJob(j *job, _ *call) any     { return g.spec(j) }
func (g *Gateway) showSummary(j *job, _ *call) any { return g.summary(j) }
func (g *Gateway) showEvals(j *job, _ *call) any {
	return append([]*api.Evaluation{}, g.evals.list(j.key)...)
}

func (g *Gateway) showAllocs(j *job, _ *call) any {
	return append([]*api.AllocationListStub{}, g.stubs(j)...)
}

// showVersions answers job history. Differences are Nomad's own work on its own structures, and take it a second for a
// job of some megabytes.
func (g *Gateway) showVersions(j *job, c *call) any {
	out := struct {
		Versions []*api.Job
		Diffs    []*structs.JobDiff
	}{Versions: append([]*api.Job{g.spec(j)}, j.record.Versions...)}
	if c.URL.Query().Get("diffs") != "true" {
		return out
	}
	key := j.key
	return func() any {
		for i := range len(out.Versions) - 1 {
			diff, err := diffJobs(out.Versions[i+1], out.Versions[i], true)
			if err != nil {
				g.logger.Warn("cannot compare versions", "job", key.String(), "error", err)
				return out
			}
			out.Diffs = append(out.Diffs, diff)
		}
		return out
	}
}

func (g *Gateway) showScale(j *job, _ *call) any {
	spec := j.record.Job
	out := &api.JobScaleStatusResponse{
		JobID: j.key.id, Namespace: j.key.namespace, JobCreateIndex: deref(spec.CreateIndex), JobModifyIndex: deref(spec.JobModifyIndex),
		JobStopped: j.record.Stopped, TaskGroups: map[string]api.TaskGroupScaleStatus{},
	}
	for _, tg := range spec.TaskGroups {
		out.TaskGroups[deref(tg.Name)] = api.TaskGroupScaleStatus{Desired: deref(tg.Count), Events: []api.ScalingEvent{}}
	}
	for _, stub := range g.stubs(j) {
		s, ok := out.TaskGroups[stub.TaskGroup]
		if !ok || terminal(stub.ClientStatus) {
			continue
		}
		s.Placed++
		if stub.ClientStatus == api.AllocClientStatusRunning {
			s.Running++
		}
		if health := stub.DeploymentStatus; health != nil && health.Healthy != nil {
			if *health.Healthy {
				s.Healthy++
			} else {
				s.Unhealthy++
			}
		}
		out.TaskGroups[stub.TaskGroup] = s
	}
	return out
}

func (g *Gateway) getSubmission(_ http.ResponseWriter, c *call) (any, error) {
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	version, err := strconv.ParseUint(c.URL.Query().Get("version"), 10, 64)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "version must be a number")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	if j == nil || j.record.Submission == nil || deref(j.record.Job.Version) != version {
		return nil, fail(http.StatusNotFound, "job source not found")
	}
	return j.record.Submission, nil
}

// listDeployments and the other deployment endpoints show the pool's own deployments, one for each running version.
func (g *Gateway) jobDeployments(_ http.ResponseWriter, c *call) (any, error) {
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	deployment, ok := g.deployment(c.Context(), key)
	if !ok {
		return []*api.Deployment{}, nil
	}
	return []*api.Deployment{deployment}, nil
}

func (g *Gateway) jobDeployment(_ http.ResponseWriter, c *call) (any, error) {
	key, err := g.find(c)
	if err != nil {
		return nil, err
	}
	g.waitDeployment(c, key)
	deployment, ok := g.deployment(c.Context(), key)
	if !ok {
		return jsonNull{}, nil
	}
	c.index = deployment.ModifyIndex
	return deployment, nil
}

// jsonNull is Nomad's answer for "there is none".
type jsonNull struct{}

// MarshalJSON implements json.Marshaler.
func (jsonNull) MarshalJSON() ([]byte, error) { return []byte("null"), nil }
