package gateway

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"

	"pangaea/federation/scheduler"
)

// planReply is api.JobPlanResponse with the servers' own form of the difference.
type planReply struct {
	JobModifyIndex     uint64
	CreatedEvals       []*api.Evaluation
	Diff               *structs.JobDiff
	Annotations        *api.PlanAnnotations
	FailedTGAllocs     map[string]*api.AllocationMetric
	NextPeriodicLaunch time.Time
	Warnings           string
}

// plan says what running the job would change, from the offers in memory alone: no member is asked.
func (g *Gateway) plan(spec *api.Job, withDiff bool) (*planReply, error) {
	key := jobKey{*spec.Namespace, *spec.ID}
	v, ok := g.view(key)
	if !ok {
		v = g.emptyView()
	}
	request := scheduler.Request{Job: spec, Members: v.members}
	var before *api.Job
	running := ok && v.known
	if running {
		before = v.record.Job
		if !v.record.Stopped {
			request.Current = v.current()
		}
	}
	var result scheduler.Result
	if !isParent(spec) { // nothing runs until something is dispatched
		result = scheduler.Place(request)
	}
	out := &planReply{FailedTGAllocs: result.Failed, Annotations: &api.PlanAnnotations{DesiredTGUpdates: updates(spec, before, request.Current, result)}}
	if before != nil {
		out.JobModifyIndex = deref(before.JobModifyIndex)
	}
	if withDiff {
		diff, err := diffJobs(before, spec, true)
		if err != nil {
			return nil, fmt.Errorf("cannot compare the job with the running one: %w", err)
		}
		annotate(diff, out.Annotations.DesiredTGUpdates)
		out.Diff = diff
	}
	return out, nil
}

// annotate writes beside each group what would become of its allocations, in the words that the CLI colours.
func annotate(diff *structs.JobDiff, updates map[string]*api.DesiredUpdates) {
	for _, tg := range diff.TaskGroups {
		update := updates[tg.Name]
		if update == nil {
			continue
		}
		tg.Updates = map[string]uint64{}
		for word, count := range map[string]uint64{
			"create": update.Place, "destroy": update.Stop, "ignore": update.Ignore, "create/destroy update": update.DestructiveUpdate,
		} {
			if count > 0 {
				tg.Updates[word] = count
			}
		}
	}
}

// emptyView is the view of a job that does not exist.
func (g *Gateway) emptyView() view {
	g.mu.Lock()
	defer g.mu.Unlock()
	var v view
	for _, m := range g.members {
		v.members = append(v.members, scheduler.Member{Alias: m.alias, State: m.state, Offer: m.offer})
	}
	return v
}

func updates(spec, before *api.Job, current []scheduler.Share, result scheduler.Result) map[string]*api.DesiredUpdates {
	have, want := map[string]int{}, map[string]int{}
	for _, share := range current {
		have[share.Group] += share.Count
	}
	for _, share := range result.Shares {
		want[share.Group] += share.Count
	}
	out := map[string]*api.DesiredUpdates{}
	same := before != nil && sameSpec(before, spec)
	for _, tg := range spec.TaskGroups {
		name := deref(tg.Name)
		kept := uint64(min(have[name], want[name]))
		update := &api.DesiredUpdates{
			Place: uint64(max(want[name]-have[name], 0)), Stop: uint64(max(have[name]-want[name], 0)), Ignore: kept,
		}
		if !same && kept > 0 { // each member's Nomad decides whether an update is in place
			update.Ignore, update.DestructiveUpdate = 0, kept
		}
		out[name] = update
		delete(have, name)
	}
	for name, count := range have {
		out[name] = &api.DesiredUpdates{Stop: uint64(count)}
	}
	return out
}
