package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
)

// errNoTunnel is what asking a member gives while it has no tunnel.
var errNoTunnel = errors.New("member has no tunnel to this gateway")

// maxReply bounds what a member may answer.
const maxReply = 32 << 20

// refusal is a member's answer other than 200.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("member answered %d: %s", r.status, r.text) }

// tell sends one command to a member and decodes its answer.
func (g *Gateway) tell(ctx context.Context, alias, path string, body, reply any) error {
	g.mu.Lock()
	tunnel := g.member(alias).session
	g.mu.Unlock()
	if tunnel == nil {
		return fmt.Errorf("cannot reach %s: %w", alias, errNoTunnel)
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("cannot encode the command for %s: %w", alias, err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.settings.patience.ask)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+alias+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("cannot make the command for %s: %w", alias, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := tunnel.Transport().RoundTrip(request)
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", alias, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", alias, err)
	}
	if response.StatusCode/100 != 2 {
		return &refusal{status: response.StatusCode, text: strings.TrimSpace(string(text[:min(len(text), 500)]))}
	}
	if reply == nil || len(text) == 0 {
		return nil
	}
	err = json.Unmarshal(text, reply)
	if err != nil {
		return fmt.Errorf("cannot understand the answer of %s: %w", alias, err)
	}
	return nil
}

// each calls fn for every item at the same time and waits for all.
func each[T any](items []T, fn func(T)) {
	if len(items) == 1 {
		fn(items[0])
		return
	}
	var group sync.WaitGroup
	for _, item := range items {
		group.Go(func() { fn(item) })
	}
	group.Wait()
}

// reserveAll asks members to hold room and returns those that do not.
func (g *Gateway) reserveAll(ctx context.Context, v *view, asks []ask) map[string]scheduler.Exclusion {
	refusals := map[string]scheduler.Exclusion{}
	var mu sync.Mutex
	each(asks, func(a ask) {
		var reply pool.ReserveReply
		err := g.tell(ctx, a.member, pool.PathReserve, pool.ReserveRequest{
			PlacementRef: a.ref, Job: cut(v.record.Job, a.groups), Groups: a.groups, TTL: g.settings.reserve,
		}, &reply)
		if err == nil && reply.Granted {
			return
		}
		exclusion := scheduler.Exclusion{Reason: or(reply.Reason, "refused"), Failed: reply.Failed}
		if err != nil {
			exclusion = scheduler.Exclusion{Reason: err.Error()}
		}
		g.logger.Info("member refused a share", "job", v.key.String(), "member", a.member, "reason", exclusion.Reason)
		mu.Lock()
		defer mu.Unlock()
		refusals[a.member] = exclusion
	})
	return refusals
}

// releaseAll gives back what was granted in a round that another member's "no" ended. The next round asks anew; a
// release that is lost costs the member its room only until the reservation's deadline.
func (g *Gateway) releaseAll(ctx context.Context, v *view, asks []ask, refusals map[string]scheduler.Exclusion) {
	granted := slices.DeleteFunc(slices.Clone(asks), func(a ask) bool {
		_, refused := refusals[a.member]
		return refused
	})
	each(granted, func(a ask) {
		err := g.tell(ctx, a.member, pool.PathRelease, a.ref, nil)
		if err != nil {
			g.logger.Debug("cannot release a reservation, it ends by itself", "job", v.key.String(), "member", a.member, "error", err)
		}
	})
}

// remember keeps a member's "no" for the job until the member's offer changes.
func (g *Gateway) remember(key jobKey, refusals map[string]scheduler.Exclusion) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.jobs[key]; j != nil {
		maps.Copy(j.excluded, refusals)
		j.excludedAt = g.settings.now()
	}
}

// cut makes the job that one member runs: the groups that it has a share of, with the share's counts.
func cut(spec *api.Job, groups map[string]pool.GroupShare) *api.Job {
	spec = undispatched(spec)
	out := *spec
	out.TaskGroups = nil
	for _, tg := range spec.TaskGroups {
		share, ok := groups[deref(tg.Name)]
		if !ok || share.Count == 0 {
			continue
		}
		part := *tg
		part.Count = ptr(share.Count)
		out.TaskGroups = append(out.TaskGroups, &part)
	}
	return &out
}

// commitAll tells the members of live placements what to run, unless they have said that they do, and stops those that
// lost their share. Members that are silent hear of both when they sync.
func (g *Gateway) commitAll(ctx context.Context, v view) error {
	var commits []pool.Placement
	for _, p := range v.set.Placements {
		if isLive(p) && !v.lost[p.ID] && !g.acknowledged(v.key, p) && v.ready(p.Member) {
			commits = append(commits, p)
		}
	}
	errs := make([]error, len(commits))
	each(slices.Collect(seq(len(commits))), func(i int) { errs[i] = g.commit(ctx, v, commits[i]) })
	return errors.Join(append(errs, g.stopAll(ctx, v))...)
}

func seq(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func (g *Gateway) acknowledged(key jobKey, p pool.Placement) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	return j != nil && j.isRegistered(p)
}

func (g *Gateway) commit(ctx context.Context, v view, p pool.Placement) error {
	var reply pool.CommitReply
	err := g.tell(ctx, p.Member, pool.PathCommit, pool.CommitRequest{
		PlacementRef: ref(v.key, p), Job: cut(v.record.Job, p.Groups), Groups: p.Groups,
	}, &reply)
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[v.key]
	var no *refusal
	if errors.As(err, &no) && j != nil {
		g.learn(j, p, no)
	}
	if err != nil {
		return fmt.Errorf("cannot register the job at %s: %w", p.Member, err)
	}
	if j != nil {
		delete(j.stale, p.ID)
		j.registered[p.ID] = registration{epoch: p.Epoch, evalID: reply.EvalID, modifyIndex: reply.JobModifyIndex}
		g.touch(j)
		if g.hasEnded(j, p) { // its allocations were quicker than the answer
			g.work.add(v.key)
		}
	}
	return nil
}

// learn takes a lesson from a member that would not register a share: with a higher epoch it may, or never. The caller
// holds mu.
func (g *Gateway) learn(j *job, p pool.Placement, no *refusal) {
	switch no.status {
	case http.StatusConflict: // epochs grow with the clock: the retry, a second later, is beyond the member's
		j.stale[p.ID] = true
	case http.StatusUnprocessableEntity:
		j.refused[p.ID] = true
		j.excluded[p.Member] = scheduler.Exclusion{Reason: no.text}
		g.work.add(j.key)
	}
}

func ref(key jobKey, p pool.Placement) pool.PlacementRef {
	return pool.PlacementRef{Namespace: key.namespace, JobID: key.id, PlacementID: p.ID, Epoch: p.Epoch}
}

// stopAll stops the placements that have ended wherever that was not acknowledged yet. A member that has a live
// placement of the same job is not told: registering the live one took the other's place in its Nomad.
func (g *Gateway) stopAll(ctx context.Context, v view) error {
	var stops []pool.Placement
	for _, p := range v.set.Placements {
		_, again := v.live(p.Member)
		if !isLive(p) && !again && !g.stopAcknowledged(v.key, p.ID) && v.ready(p.Member) {
			stops = append(stops, p)
		}
	}
	errs := make([]error, len(stops))
	each(slices.Collect(seq(len(stops))), func(i int) { errs[i] = g.stop(ctx, v, stops[i]) })
	return errors.Join(errs...)
}

func (g *Gateway) stopAcknowledged(key jobKey, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[key]
	return j != nil && j.stopped[id]
}

func (g *Gateway) stop(ctx context.Context, v view, p pool.Placement) error {
	err := g.tell(ctx, p.Member, pool.PathStop, pool.StopRequest{PlacementRef: ref(v.key, p), Purge: !v.known}, nil)
	var refused *refusal
	if errors.As(err, &refused) && (refused.status == http.StatusNotFound || refused.status == http.StatusConflict) {
		err = nil // nothing of it is there any more
	}
	if err != nil {
		return fmt.Errorf("cannot stop the job at %s: %w", p.Member, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.jobs[v.key]; j != nil && v.known {
		j.stopped[p.ID] = true
	}
	return nil
}

// saveRegistered writes down, after the user's tool has its answer, that members run what they were told, so that the
// next leader need not tell them again.
func (g *Gateway) saveRegistered(ctx context.Context, v view) error {
	changed := false
	for i, p := range v.set.Placements {
		if p.State == pool.PlacementCommitted && g.acknowledged(v.key, p) {
			v.set.Placements[i].State, changed = pool.PlacementRegistered, true
		}
	}
	if !changed {
		return nil
	}
	return g.save(ctx, &v)
}

// finish ends the evaluation that the view answers, with what could not be placed. One that was made since, for a newer
// version, say, is the next reconciliation's to answer: who made it has set the job to work again.
func (g *Gateway) finish(v view, failed map[string]*api.AllocationMetric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.jobs[v.key]
	if j == nil {
		return
	}
	j.failures = 0
	if j.evalID != v.evalID {
		return
	}
	if j.record.Stopped || !j.known {
		failed = nil
	}
	g.finishEval(j, failed)
}
