package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Patience of the endpoints that the CLI polls once a second after a submission: answering a little later, when there
// is something to say, saves it a whole second.
const (
	evalPatience  = 2 * time.Second
	allocPatience = 700 * time.Millisecond
)

// findEval returns a pool evaluation that the caller may read.
func (g *Gateway) findEval(c *call, id string) (*api.Evaluation, error) {
	g.mu.Lock()
	eval := g.evals.byID[id]
	g.mu.Unlock()
	if eval == nil {
		return nil, fail(http.StatusNotFound, "eval not found")
	}
	return eval, g.canRead(c, eval.Namespace)
}

func (g *Gateway) getEval(w http.ResponseWriter, c *call) (any, error) {
	id := c.PathValue("id")
	eval, err := g.findEval(c, id)
	if eval == nil {
		return nil, g.proxyEval(w, c, id, err)
	}
	if err != nil {
		return nil, err
	}
	g.wait(c, func() uint64 { return g.evals.get(id).ModifyIndex })
	g.until(c.Context(), evalPatience, func() bool { return g.evals.get(id).Status != api.EvalStatusPending })
	g.mu.Lock()
	defer g.mu.Unlock()
	eval = g.evals.byID[id]
	if eval == nil {
		return nil, fail(http.StatusNotFound, "eval not found")
	}
	out := *eval
	if c.URL.Query().Get("related") == "true" {
		for _, other := range g.evals.list(jobKey{eval.Namespace, eval.JobID}) {
			if other.ID == eval.BlockedEval || other.ID == eval.PreviousEval || other.ID == eval.NextEval {
				out.RelatedEvals = append(out.RelatedEvals, stubOf(other))
			}
		}
	}
	c.index = eval.ModifyIndex
	return &out, nil
}

func stubOf(e *api.Evaluation) *api.EvaluationStub {
	return &api.EvaluationStub{
		ID: e.ID, Priority: e.Priority, Type: e.Type, TriggeredBy: e.TriggeredBy, Namespace: e.Namespace, JobID: e.JobID,
		NodeID: e.NodeID, DeploymentID: e.DeploymentID, Status: e.Status, StatusDescription: e.StatusDescription,
		WaitUntil: e.WaitUntil, NextEval: e.NextEval, PreviousEval: e.PreviousEval, BlockedEval: e.BlockedEval,
		CreateIndex: e.CreateIndex, ModifyIndex: e.ModifyIndex, CreateTime: e.CreateTime, ModifyTime: e.ModifyTime,
	}
}

// evalAllocs lists the allocations that came of a pool evaluation: those that members made when they were told to
// register the job. It waits a moment for members to report them.
func (g *Gateway) evalAllocs(w http.ResponseWriter, c *call) (any, error) {
	id := c.PathValue("id")
	eval, err := g.findEval(c, id)
	if eval == nil {
		return nil, g.proxyEval(w, c, id, err)
	}
	if err != nil {
		return nil, err
	}
	key := jobKey{eval.Namespace, eval.JobID}
	g.until(c.Context(), allocPatience, func() bool {
		j := g.jobs[key]
		return j == nil || j.record.Stopped || !g.isLatest(key, id) || g.evals.get(id).Status == api.EvalStatusPending || g.reported(j)
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	out := []*api.AllocationListStub{}
	j := g.jobs[key]
	if j == nil || !g.isLatest(key, id) {
		return out, nil
	}
	c.index = max(j.index, 1)
	mine := map[string]bool{}
	for _, r := range j.registered {
		mine[r.evalID] = true
	}
	for _, stub := range g.stubs(j) {
		if mine[stub.EvalID] {
			out = append(out, stub)
		}
	}
	return out, nil
}

// isLatest reports whether an evaluation is its job's last, but for the one that it blocked with: the allocations of
// an older one are not waited for. The caller holds mu.
func (g *Gateway) isLatest(key jobKey, id string) bool {
	list := g.evals.list(key)
	return len(list) > 0 && (list[0].ID == id || list[0].ID == g.evals.get(id).BlockedEval)
}

// reported reports whether members have shown as many allocations as they were given. The caller holds mu.
func (g *Gateway) reported(j *job) bool {
	for _, p := range j.set.Placements {
		if !isLive(p) {
			continue
		}
		want, have := 0, 0
		for _, share := range p.Groups {
			want += share.Count
		}
		r, known := j.registered[p.ID]
		for _, stub := range g.member(p.Member).byJob[j.key] {
			if stub.EvalID == r.evalID || !known || r.evalID == "" {
				have++
			}
		}
		if have < want {
			return false
		}
	}
	return true
}

func (g *Gateway) listEvals(w http.ResponseWriter, c *call) (any, error) {
	visible, err := g.visible(c)
	if err != nil {
		return nil, err
	}
	g.wait(c, g.index.current)
	g.mu.Lock()
	all := g.evals.list(jobKey{})
	g.mu.Unlock()
	query := c.URL.Query()
	var items []listed[*api.Evaluation]
	for _, e := range all {
		if status := query.Get("status"); status != "" && status != e.Status {
			continue
		}
		if id := query.Get("job"); id != "" && id != e.JobID {
			continue
		}
		if visible(e.Namespace) {
			items = append(items, listed[*api.Evaluation]{show: e, filter: e, id: e.ID, token: timeToken(e.CreateIndex, e.ID)})
		}
	}
	return page(w, c, items)
}

func (g *Gateway) listDeployments(w http.ResponseWriter, c *call) (any, error) {
	visible, err := g.visible(c)
	if err != nil {
		return nil, err
	}
	g.wait(c, g.index.current)
	g.mu.Lock()
	keys := map[string]jobKey{}
	for key, j := range g.jobs {
		if id := g.deploymentID(j); id != "" && j.known {
			keys[id] = key
		}
	}
	g.mu.Unlock()
	prefix := c.URL.Query().Get("prefix")
	var items []listed[*api.Deployment]
	for id, key := range keys {
		if !visible(key.namespace) || len(prefix) > len(id) || id[:len(prefix)] != prefix {
			continue
		}
		if d, ok := g.deployment(c.Context(), key); ok {
			items = append(items, listed[*api.Deployment]{show: d, filter: d, id: id, token: timeToken(d.CreateIndex, id)})
		}
	}
	return page(w, c, items)
}

// keyOfDeployment finds the job of a pool deployment.
func (g *Gateway) keyOfDeployment(id string) (jobKey, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, j := range g.jobs {
		if j.known && g.deploymentID(j) == id {
			return key, true
		}
	}
	return jobKey{}, false
}

func (g *Gateway) getDeployment(_ http.ResponseWriter, c *call) (any, error) {
	key, ok := g.keyOfDeployment(c.PathValue("id"))
	if !ok {
		return nil, fail(http.StatusNotFound, "deployment not found")
	}
	err := g.canRead(c, key.namespace)
	if err != nil {
		return nil, err
	}
	g.waitDeployment(c, key)
	deployment, ok := g.deployment(c.Context(), key)
	if !ok {
		return nil, fail(http.StatusNotFound, "deployment not found")
	}
	c.index = deployment.ModifyIndex
	return deployment, nil
}

// waitDeployment is a short blocking query: a member's deployment may fail at its deadline with no allocation changing,
// of which the gateway hears nothing.
func (g *Gateway) waitDeployment(c *call, key jobKey) {
	ctx, cancel := context.WithTimeout(c.Context(), evalPatience)
	defer cancel()
	short := *c
	short.Request = c.WithContext(ctx)
	g.wait(&short, func() uint64 { return g.indexOf(key) })
}

func (g *Gateway) deploymentAllocs(_ http.ResponseWriter, c *call) (any, error) {
	key, ok := g.keyOfDeployment(c.PathValue("id"))
	if !ok {
		return nil, fail(http.StatusNotFound, "deployment not found")
	}
	err := g.canRead(c, key.namespace)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.jobs[key]; j != nil {
		return append([]*api.AllocationListStub{}, g.stubs(j)...), nil
	}
	return []*api.AllocationListStub{}, nil
}
