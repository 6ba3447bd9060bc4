package member

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/tunnel"
	"pangaea/federation/tunnel/tunneltest"
)

// testLease checks that Nomad renders each renewal of a lease, that renewals end when the pool is out of reach, and
// that the placement is then stopped, since its job must not run twice.
func (r *realRig) testLease(t *testing.T) {
	const ttl = 16 * time.Second // far longer than the pause between the heartbeats of Nomad's client, which has its own stop
	job := shellJob("once", 1, `while :; do cat "$NOMAD_TASK_DIR/../`+leaseFile+`"; echo; sleep 0.1; done`)
	job.TaskGroups[0].Disconnect = &api.DisconnectStrategy{StopOnClientAfter: ptr(ttl), LostAfter: ptr(time.Minute)}
	job.TaskGroups[0].Tasks[0].Templates = []*api.Template{leaseRenderer("once")} // as addLease does for the runc driver

	agent := startAgent(t, testConfig(), r.client)
	g := &fakeGateway{t: t}
	var member *tunnel.Session
	var err error
	g.session, member, err = tunnel.Pipe("fr-par-1", tunnel.Config{Limits: tunneltest.Patient()})
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = g.session.Serve(ctx, g) })
	group.Go(func() { agent.Serve(ctx, member) })
	g.see("the agent joins", func(g *fakeGateway) bool { return g.offer.Member != "" })
	status, text := g.call("PUT", pool.PathCommit, commit(job, 1, pool.GroupShare{Count: 1, Total: 1}), nil)
	must.Eq(t, 200, status, must.Sprint(text))
	var id string
	g.see("it runs", func(g *fakeGateway) bool {
		for _, a := range g.allocs {
			if a.JobID == "once" && a.ClientStatus == "running" {
				id = a.ID
			}
		}
		return id != ""
	})
	started := time.Now()
	logs := "/v1/client/fs/logs/" + id + "?task=main&type=stdout&origin=start&offset=0&plain=true"
	values := func() map[string]bool {
		_, text := r.gateway.call("GET", logs, nil, nil)
		distinct := map[string]bool{}
		for line := range strings.Lines(text) {
			distinct[strings.TrimSpace(line)] = true
		}
		return distinct
	}
	g.see("the lease changes", func(*fakeGateway) bool { return len(values()) >= 3 })
	t.Logf("first renewals after %s", time.Since(started))

	cancel() // the pool is out of reach of this agent; the rig's own, which still renews, does not matter to it
	group.Wait()
	cut := time.Now()
	before, _ := agent.contact.lost()
	stopped := r.gateway
	stopped.see("it is stopped", func(g *fakeGateway) bool { return g.allocs[id] != nil && g.allocs[id].ClientStatus == "complete" })
	t.Logf("stopped %s after the cut", time.Since(cut))
	must.Greater(t, ttl-time.Second, before+time.Since(cut), must.Sprint("it counts from when the pool was heard last"))
}
