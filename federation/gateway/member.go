package gateway

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
)

// session is what the gateway needs of a member's tunnel; *tunnel.Session is one.
type session interface {
	Transport() http.RoundTripper
	Done() <-chan struct{}
}

// member is what the gateway knows about a member now. Gateway.mu guards it.
type member struct {
	alias     string
	place     pool.Place
	price     float64
	version   string
	joined    time.Time
	session   session // nil while there is no tunnel
	synced    bool    // it has told in this session what it runs
	heard     time.Time
	state     pool.MemberState
	offer     *scheduler.Offer
	sequence  uint64
	free      []pool.NodeClass // of the offer, to see whether another one differs
	nodes     nodeMemory
	allocs    map[string]*api.AllocationListStub
	byJob     map[jobKey]map[string]*api.AllocationListStub
	summaries map[string]*api.JobSummary
}

// member returns the record of an alias, making it if need be. A member that was never heard of is silent since this
// gateway started, so that nobody is declared lost early because the gateway was away. The caller holds mu.
func (g *Gateway) member(alias string) *member {
	m := g.members[alias]
	if m == nil {
		m = &member{
			alias: alias, heard: g.started, state: pool.MemberSuspect,
			allocs: map[string]*api.AllocationListStub{}, byJob: map[jobKey]map[string]*api.AllocationListStub{},
			summaries: map[string]*api.JobSummary{},
		}
		g.members[alias] = m
	}
	return m
}

func (m *member) known(record pool.MemberRecord) {
	if m.session == nil {
		m.place, m.price, m.version = record.Place, record.Price, record.AgentInfo
	}
	m.joined = record.JoinedAt
}

// stateAt is the member's clock: connected and speaking, suspect, detached. Whether it is lost depends on the job.
func (m *member) stateAt(now time.Time, s settings) pool.MemberState {
	silent := now.Sub(m.heard)
	switch {
	case silent >= s.detached:
		return pool.MemberDetached
	case silent >= s.suspect, m.session == nil, !m.synced, m.offer == nil:
		return pool.MemberSuspect
	}
	return pool.MemberReady
}

// silence is how long the member has not been heard, 0 while its tunnel lives and speaks.
func (m *member) silence(now time.Time) time.Duration {
	if m.state == pool.MemberReady {
		return 0
	}
	return now.Sub(m.heard)
}

// update takes news about allocations and returns the jobs that it is about. Allocations get the pool's index in place
// of their member's: tools compare it with that of the pool's evaluations. theirs says which of those that were
// not known before can be this member's; the others stay in their job.
func (m *member) update(status pool.Status, index uint64, theirs func(*api.AllocationListStub) bool) []jobKey {
	touched, before := map[jobKey]bool{}, maps.Clone(m.allocs)
	if status.Full {
		m.forgetOthers(status.Known)
	}
	for _, stub := range status.Allocations {
		if stub == nil || stub.ID == "" {
			continue
		}
		old := before[stub.ID]
		if !belongs(stub, old, theirs) {
			continue
		}
		if m.put(stub, old, index) {
			touched[jobKey{stub.Namespace, stub.JobID}] = true
		}
	}
	for id, old := range before {
		if m.allocs[id] == nil {
			touched[jobKey{old.Namespace, old.JobID}] = true
		}
	}
	for name, summary := range status.Jobs {
		if m.isSummary(name, summary) {
			m.summaries[name] = summary
			touched[jobKey{summary.Namespace, summary.JobID}] = true
		}
	}
	return slices.Collect(maps.Keys(touched))
}

// forgetOthers keeps the allocations with these IDs alone.
func (m *member) forgetOthers(known []string) {
	before := maps.Clone(m.allocs)
	clear(m.allocs)
	clear(m.byJob)
	clear(m.summaries)
	for _, id := range known {
		if old := before[id]; old != nil {
			m.keep(old)
		}
	}
}

func belongs(stub, old *api.AllocationListStub, theirs func(*api.AllocationListStub) bool) bool {
	if old == nil {
		return theirs(stub)
	}
	return old.Namespace == stub.Namespace && old.JobID == stub.JobID
}

// maxMemberAllocs bounds the memory that one member's news can take.
const maxMemberAllocs = 100_000

// isTheirs reports whether a member can have an allocation that it tells of for the first time: one of a job that has or
// had a placement there, and that no other member has. Without this a member could show itself in others' jobs and have
// their users' commands and questions sent to it. The caller holds mu.
func (g *Gateway) isTheirs(m *member, stub *api.AllocationListStub) bool {
	j := g.jobs[jobKey{stub.Namespace, stub.JobID}]
	if j == nil || !j.runsOn(m.alias) || len(m.allocs) >= maxMemberAllocs {
		return false
	}
	for _, other := range g.members {
		if other != m && other.allocs[stub.ID] != nil {
			return false
		}
	}
	return true
}

// isSummary reports whether a summary is of a job that the member has allocations of.
func (m *member) isSummary(name string, summary *api.JobSummary) bool {
	return summary != nil && m.byJob[jobKey{summary.Namespace, summary.JobID}] != nil && name == summary.Namespace+"/"+summary.JobID
}

// put takes one allocation and reports whether it differs from what was known: a full report repeats much.
func (m *member) put(stub, old *api.AllocationListStub, index uint64) bool {
	stub.CreateIndex, stub.ModifyIndex = index, index
	if old != nil {
		stub.CreateIndex, stub.ModifyIndex = old.CreateIndex, old.ModifyIndex
	}
	changed := old == nil || !reflect.DeepEqual(stub, old)
	if changed {
		stub.ModifyIndex = index
	}
	m.keep(stub)
	return changed
}

func (m *member) keep(stub *api.AllocationListStub) {
	key := jobKey{stub.Namespace, stub.JobID}
	m.allocs[stub.ID] = stub
	if m.byJob[key] == nil {
		m.byJob[key] = map[string]*api.AllocationListStub{}
	}
	m.byJob[key][stub.ID] = stub
}

// stub returns an allocation as users see it: what a silent member's allocations do is not known.
func (m *member) stub(from *api.AllocationListStub, live bool) *api.AllocationListStub {
	if m.state != pool.MemberDetached || terminal(from.ClientStatus) {
		return from
	}
	out := *from
	out.ClientStatus, out.ClientDescription = api.AllocClientStatusUnknown, "no contact with member "+m.alias
	if !live {
		out.ClientStatus, out.DesiredStatus = api.AllocClientStatusLost, api.AllocDesiredStatusStop
		out.ClientDescription = "placed elsewhere: no contact with member " + m.alias
	}
	return &out
}

func terminal(status string) bool {
	return status == api.AllocClientStatusComplete || status == api.AllocClientStatusFailed || status == api.AllocClientStatusLost
}
