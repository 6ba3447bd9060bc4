package gateway

import (
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// shown returns an allocation as users see it: with the pool's name, and what its member's silence makes of it. The
// caller holds mu.
func (g *Gateway) shown(m *member, from *api.AllocationListStub) *api.AllocationListStub {
	j := g.jobs[jobKey{from.Namespace, from.JobID}]
	live := false
	if j != nil {
		_, live = j.placementOn(m.alias)
	}
	out := m.stub(from, live)
	name := j.allocName(m.alias, from.TaskGroup, from.Name)
	if name == out.Name {
		return out
	}
	named := *out
	named.Name = name
	return &named
}

// allocName is an allocation's name in the pool: a member's Nomad counts from 0 in each share of a group, and the share
// begins at its offset in the whole. Within the task NOMAD_ALLOC_INDEX stays the member's. j may be nil. The caller holds
// mu.
func (j *job) allocName(alias, group, name string) string {
	if j == nil || j.record.Job == nil || isSystem(j.record.Job) { // system jobs run at index 0 on every node
		return name
	}
	offset := j.offsetOn(alias, group)
	open := strings.LastIndexByte(name, '[')
	if offset == 0 || open < 0 || !strings.HasSuffix(name, "]") {
		return name
	}
	index, err := strconv.Atoi(name[open+1 : len(name)-1])
	if err != nil {
		return name
	}
	return name[:open+1] + strconv.Itoa(offset+index) + "]"
}

// offsetOn is where a member's share of a group begins, or began when it was last given one.
func (j *job) offsetOn(alias, group string) int {
	offset := 0
	for _, p := range j.set.Placements {
		share, ok := p.Groups[group]
		if p.Member != alias || !ok {
			continue
		}
		offset = share.Offset
		if isLive(p) {
			break
		}
	}
	return offset
}

// rename gives allocations in a member's answer the pool's names.
func (g *Gateway) rename(alias string) func(fields) {
	return func(f fields) {
		name, group := f.text("Name"), f.text("TaskGroup")
		if name == "" || group == "" {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		f.setText("Name", g.jobs[jobKey{f.text("Namespace"), f.text("JobID")}].allocName(alias, group, name))
	}
}

func (g *Gateway) renameAll(alias string, allocs []*api.Allocation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range allocs {
		if a != nil {
			a.Name = g.jobs[jobKey{a.Namespace, a.JobID}].allocName(alias, a.TaskGroup, a.Name)
		}
	}
}
