package gateway

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
)

// job is a pool job in the leader's memory. Gateway.mu guards it; only the worker that holds the job in the queue
// changes its placements.
type job struct {
	key         jobKey
	record      pool.JobRecord
	consulIndex uint64
	known       bool // the job's key is in Consul; false once it is purged
	set         pool.PlacementSet
	setIndex    uint64
	index       uint64 // pool index of the last change to anything that users see of the job

	registered map[string]registration // by placement ID: what members have acknowledged
	stopped    map[string]bool         // placements whose stop was acknowledged
	stale      map[string]bool         // placements whose member knows a higher epoch
	refused    map[string]bool         // placements that their member will not register
	excluded   map[string]scheduler.Exclusion
	excludedAt time.Time
	evalID     string // the evaluation that the next reconciliation answers
	blockedID  string // the evaluation that waits for capacity
	retryAt    time.Time
	heldUntil  time.Time // nobody had room for a lost member's share
	failures   int
}

// registration is a member's acknowledgement of a commit.
type registration struct {
	epoch       uint64
	evalID      string
	modifyIndex uint64
}

func newJob(key jobKey) *job {
	return &job{
		key: key, registered: map[string]registration{}, stopped: map[string]bool{}, stale: map[string]bool{}, refused: map[string]bool{},
		excluded: map[string]scheduler.Exclusion{},
		set:      pool.PlacementSet{Namespace: key.namespace, JobID: key.id},
	}
}

// isLive reports whether a placement is one that should run, or has run to its end.
func isLive(p pool.Placement) bool {
	return p.State == pool.PlacementCommitted || p.State == pool.PlacementRegistered || p.State == pool.PlacementComplete
}

func (j *job) placementOn(alias string) (pool.Placement, bool) {
	for _, p := range j.set.Placements {
		if p.Member == alias && isLive(p) {
			return p, true
		}
	}
	return pool.Placement{}, false
}

func (j *job) runsOn(alias string) bool {
	return slices.ContainsFunc(j.set.Placements, func(p pool.Placement) bool { return p.Member == alias })
}

// isRegistered reports whether the member is known to run this placement at this epoch.
func (j *job) isRegistered(p pool.Placement) bool {
	if p.State == pool.PlacementComplete || p.State == pool.PlacementRegistered {
		return true
	}
	r, ok := j.registered[p.ID]
	return ok && r.epoch == p.Epoch
}

func (j *job) isBatch() bool {
	kind := deref(j.record.Job.Type)
	return kind == api.JobTypeBatch || kind == api.JobTypeSysbatch
}

// lostAfter is how long after its last word a member's share of this job is given to others: the longest time of
// the share's groups. A group that must not run twice is waited for until its member has surely stopped it.
func (j *job) lostAfter(p pool.Placement, def time.Duration) time.Duration {
	longest := time.Duration(0)
	if j.record.Job != nil {
		for _, tg := range j.record.Job.TaskGroups {
			if _, ok := p.Groups[deref(tg.Name)]; ok {
				longest = max(longest, groupLostAfter(tg, def))
			}
		}
	}
	if longest == 0 {
		return def
	}
	return longest
}

func groupLostAfter(tg *api.TaskGroup, def time.Duration) time.Duration {
	lost, stop := time.Duration(0), time.Duration(0)
	if old := tg.MaxClientDisconnect; old != nil { //nolint:staticcheck // members on older Nomads know no other word
		lost = *old
	}
	if old := tg.StopAfterClientDisconnect; old != nil { //nolint:staticcheck // likewise
		stop = *old
	}
	if d := tg.Disconnect; d != nil {
		if d.LostAfter != nil && *d.LostAfter > 0 {
			lost = *d.LostAfter
		}
		if d.StopOnClientAfter != nil {
			stop = *d.StopOnClientAfter
		}
	}
	if stop == 0 {
		return or(lost, def)
	}
	grace := time.Duration(0)
	for _, task := range tg.Tasks {
		grace = max(grace, deref(task.KillTimeout))
	}
	// A tenth covers clocks that run at different speeds.
	return max(lost, stop+stop/10+grace)
}

// hasLost reports whether a share of the job is due to be placed elsewhere. The caller holds mu.
func (g *Gateway) hasLost(j *job, now time.Time) bool {
	return slices.ContainsFunc(j.set.Placements, func(p pool.Placement) bool { return g.isLost(j, p, now) })
}

func (g *Gateway) isLost(j *job, p pool.Placement, now time.Time) bool {
	if p.State != pool.PlacementCommitted && p.State != pool.PlacementRegistered {
		return false
	}
	silence := g.member(p.Member).silence(now)
	return silence > 0 && silence >= j.lostAfter(p, g.settings.lost)
}

// stubs lists the job's allocations on all members, newest first. The caller holds mu.
func (g *Gateway) stubs(j *job) []*api.AllocationListStub {
	var out []*api.AllocationListStub
	for _, m := range g.members {
		for _, stub := range m.byJob[j.key] {
			out = append(out, g.shown(m, stub))
		}
	}
	sortStubs(out)
	return out
}

func sortStubs(stubs []*api.AllocationListStub) {
	slices.SortFunc(stubs, func(a, b *api.AllocationListStub) int {
		return cmp.Or(cmp.Compare(b.CreateTime, a.CreateTime), cmp.Compare(a.ID, b.ID))
	})
}

// status is the job's status in Nomad's words, worked out from what runs. The caller holds mu.
func (g *Gateway) status(j *job) string {
	if j.record.Stopped {
		return "dead"
	}
	if isParent(j.record.Job) {
		return "running"
	}
	stubs := g.stubs(j)
	active := slices.ContainsFunc(stubs, func(s *api.AllocationListStub) bool {
		return !terminal(s.ClientStatus) && s.ClientStatus != api.AllocClientStatusPending
	})
	complete, live := j.progress()
	switch {
	case active, !j.isBatch() && live > 0 && len(stubs) > 0:
		return "running"
	case j.isBatch() && complete > 0 && live == 0 && j.blockedID == "" && j.evalID == "":
		return "dead"
	}
	return "pending"
}

// progress counts the placements that have run to their end and those that have not.
func (j *job) progress() (complete, live int) {
	for _, p := range j.set.Placements {
		if p.State == pool.PlacementComplete {
			complete++
		} else if isLive(p) {
			live++
		}
	}
	return complete, live
}

// hasEnded reports whether a batch placement that counts as running has run to its end. The caller holds mu.
func (g *Gateway) hasEnded(j *job, p pool.Placement) bool {
	running := p.State == pool.PlacementCommitted || p.State == pool.PlacementRegistered
	return running && j.isBatch() && j.isRegistered(p) && g.isDone(j, p)
}

// isDone reports whether all of a batch placement's allocations have ended for good, at least as many as it was given.
func (g *Gateway) isDone(j *job, p pool.Placement) bool {
	want, ended := 0, 0
	for _, share := range p.Groups {
		want += share.Count
	}
	m := g.member(p.Member)
	for _, stub := range m.byJob[j.key] {
		if !terminal(stub.ClientStatus) {
			return false
		}
		if stub.NextAllocation == "" && stub.FollowupEvalID == "" {
			ended++
		}
	}
	if ended < want {
		return false
	}
	// A failed allocation that Nomad is about to replace shows only in the queue for a moment.
	if summary := m.summaries[j.key.namespace+"/"+j.key.id]; summary != nil {
		for _, group := range summary.Summary {
			if group.Queued > 0 || group.Starting > 0 || group.Running > 0 {
				return false
			}
		}
	}
	return true
}

// summary adds up the members' allocations by group. The caller holds mu.
func (g *Gateway) summary(j *job) *api.JobSummary {
	out := &api.JobSummary{
		JobID: j.key.id, Namespace: j.key.namespace, Summary: map[string]api.TaskGroupSummary{},
		Children: g.children(j), ModifyIndex: max(j.index, 1),
	}
	if j.record.Job == nil {
		return out
	}
	out.CreateIndex = deref(j.record.Job.CreateIndex)
	for _, tg := range j.record.Job.TaskGroups {
		out.Summary[deref(tg.Name)] = api.TaskGroupSummary{Queued: g.queued(j, tg)}
	}
	for _, stub := range g.stubs(j) {
		counts := out.Summary[stub.TaskGroup]
		count(&counts, stub.ClientStatus)
		out.Summary[stub.TaskGroup] = counts
	}
	return out
}

func count(s *api.TaskGroupSummary, status string) {
	switch status {
	case api.AllocClientStatusPending:
		s.Starting++
	case api.AllocClientStatusRunning:
		s.Running++
	case api.AllocClientStatusComplete:
		s.Complete++
	case api.AllocClientStatusFailed:
		s.Failed++
	case api.AllocClientStatusLost:
		s.Lost++
	case api.AllocClientStatusUnknown:
		s.Unknown++
	}
}

// queued is what a group still lacks on members.
func (g *Gateway) queued(j *job, tg *api.TaskGroup) int {
	kind := deref(j.record.Job.Type)
	if j.record.Stopped || isParent(j.record.Job) || strings.HasPrefix(kind, api.JobTypeSystem) || kind == api.JobTypeSysbatch {
		return 0
	}
	have := 0
	for _, p := range j.set.Placements {
		if isLive(p) {
			have += p.Groups[deref(tg.Name)].Count
		}
	}
	return max(deref(tg.Count)-have, 0)
}
