package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/hashicorp/nomad/api"
)

// deploymentID is the pool's own deployment of a job version, or "" for jobs that have none. It is worked out from the
// job, so that nothing need be stored for it. The caller holds mu.
func (g *Gateway) deploymentID(j *job) string {
	spec := j.record.Job
	if spec == nil || deref(spec.Type) != api.JobTypeService || len(j.set.Placements) == 0 {
		return ""
	}
	return deploymentID(j.key, deref(spec.Version), deref(spec.CreateIndex))
}

func deploymentID(key jobKey, version, create uint64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d", key.namespace, key.id, version, create))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// part is one member's share of a pool deployment.
type part struct {
	alias    string
	modified uint64 // the job's modify index at the member, 0 if this gateway did not register it
	shares   map[string]int
	latest   *api.Deployment
}

// deployment adds up the members' own deployments of the job's current version.
func (g *Gateway) deployment(ctx context.Context, key jobKey) (*api.Deployment, bool) {
	g.mu.Lock()
	j := g.jobs[key]
	if j == nil || !j.known || g.deploymentID(j) == "" {
		g.mu.Unlock()
		return nil, false
	}
	spec, stopped, index := j.record.Job, j.record.Stopped, max(j.index, 1)
	id := g.deploymentID(j)
	var parts []part
	for _, p := range j.set.Placements {
		if isLive(p) {
			one := part{alias: p.Member, modified: j.registered[p.ID].modifyIndex, shares: map[string]int{}}
			for name, share := range p.Groups {
				one.shares[name] = share.Count
			}
			parts = append(parts, one)
		}
	}
	g.mu.Unlock()
	each(pointers(parts), func(p *part) { p.latest = g.memberDeployment(ctx, p.alias, key) })
	out := &api.Deployment{
		ID: id, Namespace: key.namespace, JobID: key.id, JobVersion: deref(spec.Version), TaskGroups: map[string]*api.DeploymentState{},
		JobModifyIndex: deref(spec.ModifyIndex), JobSpecModifyIndex: deref(spec.JobModifyIndex), JobCreateIndex: deref(spec.CreateIndex),
		CreateIndex: deref(spec.JobModifyIndex), ModifyIndex: index, CreateTime: deref(spec.SubmitTime), ModifyTime: g.settings.now().UnixNano(),
	}
	for _, tg := range spec.TaskGroups {
		out.TaskGroups[deref(tg.Name)] = &api.DeploymentState{DesiredTotal: deref(tg.Count)}
	}
	out.Status, out.StatusDescription = combine(out.TaskGroups, parts)
	if stopped {
		out.Status, out.StatusDescription = "cancelled", "Cancelled because job is stopped"
	}
	return out, true
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// combine adds the parts up: one that failed fails the whole, and the whole has succeeded when every part has and
// nothing is missing.
func combine(total map[string]*api.DeploymentState, parts []part) (status, description string) {
	open, failed := false, ""
	for _, p := range parts {
		if p.latest == nil || p.latest.JobSpecModifyIndex < p.modified {
			open = true // the member has not begun this version yet
			continue
		}
		for name, state := range p.latest.TaskGroups {
			if total[name] != nil {
				add(total[name], state)
			}
		}
		if p.latest.Status == "failed" || p.latest.Status == "cancelled" {
			failed = fmt.Sprintf("%s at member %s", p.latest.StatusDescription, p.alias)
		}
	}
	for _, state := range total {
		open = open || state.HealthyAllocs < state.DesiredTotal
	}
	switch {
	case failed != "":
		return "failed", failed
	case open:
		return "running", "Deployment is running"
	}
	return "successful", "Deployment completed successfully"
}

func add(to, from *api.DeploymentState) {
	if from == nil {
		return
	}
	to.PlacedAllocs += from.PlacedAllocs
	to.HealthyAllocs += from.HealthyAllocs
	to.UnhealthyAllocs += from.UnhealthyAllocs
	to.DesiredCanaries += from.DesiredCanaries
	to.PlacedCanaries = append(to.PlacedCanaries, from.PlacedCanaries...)
	to.AutoRevert = to.AutoRevert || from.AutoRevert
	to.Promoted = to.Promoted || from.Promoted
	to.ProgressDeadline = max(to.ProgressDeadline, from.ProgressDeadline)
	if from.RequireProgressBy.After(to.RequireProgressBy) {
		to.RequireProgressBy = from.RequireProgressBy
	}
}

// memberDeployment reads a member's latest deployment of its share, or nil.
func (g *Gateway) memberDeployment(ctx context.Context, alias string, key jobKey) *api.Deployment {
	ctx, cancel := context.WithTimeout(ctx, g.settings.patience.deployment)
	defer cancel()
	var out *api.Deployment
	path := "/v1/job/" + url.PathEscape(key.id) + "/deployment?namespace=" + url.QueryEscape(key.namespace)
	err := g.get(ctx, alias, path, &out)
	if err != nil {
		g.logger.Debug("cannot read a member's deployment", "member", alias, "job", key.String(), "error", err)
		return nil
	}
	return out
}

// get reads from a member's Nomad.
func (g *Gateway) get(ctx context.Context, alias, path string, out any) error {
	g.mu.Lock()
	tunnel := g.member(alias).session
	g.mu.Unlock()
	if tunnel == nil {
		return errNoTunnel
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+alias+path, nil)
	if err != nil {
		return fmt.Errorf("cannot make a request for %s: %w", alias, err)
	}
	response, err := tunnel.Transport().RoundTrip(request)
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", alias, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &refusal{status: response.StatusCode}
	}
	err = json.NewDecoder(io.LimitReader(response.Body, maxReply)).Decode(out)
	if err != nil {
		return fmt.Errorf("cannot understand the answer of %s: %w", alias, err)
	}
	return nil
}
