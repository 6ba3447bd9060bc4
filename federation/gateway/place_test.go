package gateway

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestRunStopPurge(t *testing.T) {
	p := newPool(t, france(), japan())
	eval := p.run(testJob("web", "service", 6))
	must.Eq(t, "complete", eval.Status)
	must.MapEmpty(t, eval.FailedTGAllocs)
	must.Eq(t, map[string]int{"fr-par-1": 4, "jp-tyo-1": 2}, p.live("web"))
	p.eventually("six allocations", func() bool { return len(p.gateway.stubs(p.gateway.jobs[jobKey{"default", "web"}])) == 6 })
	job, _, err := p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, "running", *job.Status)

	id, _, err := p.client.Jobs().Deregister("web", false, nil)
	must.NoError(t, err)
	p.await(id)
	must.MapEmpty(t, p.live("web"))
	must.MapEmpty(t, p.members["fr-par-1"].runs)
	job, _, err = p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, "dead", *job.Status)

	id, _, err = p.client.Jobs().Deregister("web", true, nil)
	must.NoError(t, err)
	p.await(id)
	_, _, err = p.client.Jobs().Info("web", nil)
	must.ErrorContains(t, err, "job not found")
	must.MapEmpty(t, p.store.jobs)
	must.MapEmpty(t, p.store.sets)
}
