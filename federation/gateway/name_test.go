package gateway

import (
	"regexp"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

// TestNames checks that the names of a group's allocations are unique over all members, whoever tells them.
func TestNames(t *testing.T) {
	p := newPool(t, france(), japan())
	eval := p.run(testJob("web", "service", 6)) // four in France, two in Japan
	p.eventually("six allocations", func() bool { return len(p.gateway.stubs(p.gateway.jobs[jobKey{"default", "web"}])) == 6 })
	want := []string{"web.g[0]", "web.g[1]", "web.g[2]", "web.g[3]", "web.g[4]", "web.g[5]"}
	names := func(stubs []*api.AllocationListStub, _ *api.QueryMeta, err error) []string {
		must.NoError(t, err)
		var out []string
		for _, stub := range stubs {
			out = append(out, stub.Name)
		}
		slices.Sort(out)
		return out
	}
	must.Eq(t, want, names(p.client.Jobs().Allocations("web", false, nil)))
	must.Eq(t, want, names(p.client.Allocations().List(nil)))
	must.Eq(t, want, names(p.client.Evaluations().Allocations(eval.ID, nil)))
	must.Eq(t, want, names(p.client.Deployments().Allocations(deploymentOf(t, p, "web"), nil)))
	must.Eq(t, []string{"web.g[5]"}, names(p.client.Allocations().List(&api.QueryOptions{Filter: `Name == "web.g[5]"`})))

	stubs, _, err := p.client.Allocations().List(&api.QueryOptions{Filter: `Name == "web.g[5]"`})
	must.NoError(t, err)
	id := stubs[0].ID
	foreign, _, err := p.client.Evaluations().Allocations(stubs[0].EvalID, nil) // the member's own evaluation
	must.NoError(t, err)
	must.Len(t, 2, foreign)
	must.SliceContains(t, []string{"web.g[4]", "web.g[5]"}, foreign[0].Name)
	whole := func() {
		t.Helper()
		alloc, _, err := p.client.Allocations().Info(id, nil)
		must.NoError(t, err)
		must.Eq(t, "web.g[5]", alloc.Name)
		onNode, _, err := p.client.Nodes().Allocations(nodeIDOf("jp-tyo-1"), nil)
		must.NoError(t, err)
		found := []string{onNode[0].Name, onNode[1].Name}
		slices.Sort(found)
		must.Eq(t, []string{"web.g[4]", "web.g[5]"}, found)
		output, status := p.cli("alloc", "status", id[:8])
		must.Eq(t, 0, status, must.Sprint(output))
		must.RegexMatch(t, regexp.MustCompile(`Name +=? web\.g\[5\]`), output)
	}
	whole() // from the member
	p.members["jp-tyo-1"].disconnect()
	whole() // from memory
}

func TestAllocName(t *testing.T) {
	share := func(offset int) map[string]pool.GroupShare {
		return map[string]pool.GroupShare{"g": {Count: 2, Offset: offset}}
	}
	placements := []pool.Placement{
		{Member: "a", State: pool.PlacementSuperseded, Groups: share(7)},
		{Member: "a", State: pool.PlacementRegistered, Groups: share(2)},
		{Member: "a", State: pool.PlacementStopped, Groups: share(9)},
		{Member: "b", State: pool.PlacementStopped, Groups: share(4)},
		{Member: "c", State: pool.PlacementComplete, Groups: share(0)},
	}
	for _, one := range []struct{ name, kind, alias, group, from, want string }{
		{"the live share's offset", "service", "a", "g", "web.g[1]", "web.g[3]"},
		{"brackets in the job's name", "service", "a", "g", "w[0].g[1]", "w[0].g[3]"},
		{"a share that has ended", "batch", "b", "g", "web.g[0]", "web.g[4]"},
		{"the first share", "batch", "c", "g", "web.g[1]", "web.g[1]"},
		{"a group that was never here", "batch", "a", "h", "web.h[1]", "web.h[1]"},
		{"a stranger", "batch", "z", "g", "web.g[1]", "web.g[1]"},
		{"no index", "service", "a", "g", "web.g", "web.g"},
		{"no number", "service", "a", "g", "web.g[x]", "web.g[x]"},
		{"a system job", "system", "a", "g", "web.g[0]", "web.g[0]"},
	} {
		t.Run(one.name, func(t *testing.T) {
			j := newJob(jobKey{"default", "web"})
			j.record.Job, j.set.Placements = &api.Job{Type: &one.kind}, placements
			must.Eq(t, one.want, j.allocName(one.alias, one.group, one.from))
		})
	}
	var unknown *job
	must.Eq(t, "web.g[1]", unknown.allocName("a", "g", "web.g[1]"))
}
