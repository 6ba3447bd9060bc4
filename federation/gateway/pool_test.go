package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"pangaea/federation/leaktest"
	"pangaea/federation/pool"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(gatewayProcess); file != "" { // this process is a gateway that a test may kill
		os.Exit(Command([]string{"-config", file}, os.Stdout, os.Stderr))
	}
	// Consul's library tries on for some seconds to find out whether a lock was lost, whatever its caller does.
	leaktest.Main(m, goleak.IgnoreAnyFunction("github.com/hashicorp/consul/api.(*Lock).monitorLock"))
}

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// fakePool is a leading gateway with a hand-driven clock, served over HTTP, and its members.
type fakePool struct {
	t       *testing.T
	store   *fakeStore
	gateway *Gateway
	client  *api.Client
	server  *httptest.Server
	members map[string]*fakeMember
	errands errands // what members still answer and tell
	stop    func()

	mu  sync.Mutex
	now time.Time
}

func (p *fakePool) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// pass moves the clock on; the members that are connected are heard again.
func (p *fakePool) pass(d time.Duration) {
	p.mu.Lock()
	p.now = p.now.Add(d)
	p.mu.Unlock()
	for _, m := range p.members {
		if m.tunnel() != nil {
			m.offer()
		}
	}
	p.gateway.tick()
}

// news pushes a member's allocations, as its agent does after a change.
func (p *fakePool) news(m *fakeMember) {
	m.status(false)
	m.offer()
}

func newPool(t *testing.T, members ...*fakeMember) *fakePool {
	t.Helper()
	p := &fakePool{t: t, store: newFakeStore(), members: map[string]*fakeMember{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	p.start()
	for _, m := range members {
		p.join(m)
	}
	t.Cleanup(p.close)
	return p
}

// start brings up a new gateway on the same store.
func (p *fakePool) start() {
	config := Config{Now: p.clock}
	s, err := config.settings()
	must.NoError(p.t, err)
	s.advertiseHTTP = "127.0.0.1:4646"
	s.patience = patience{soon, soon, soon, soon}
	level := hclog.Off
	if testing.Verbose() {
		level = hclog.Info
	}
	p.gateway = newGateway(s, p.store, hclog.New(&hclog.LoggerOptions{Level: level}))
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.gateway.lead(ctx, p.store.fence) })
	p.server = httptest.NewServer(p.gateway.front(p.gateway.routes(), http.DefaultTransport))
	p.client, err = api.NewClient(&api.Config{Address: p.server.URL})
	must.NoError(p.t, err)
	p.stop = func() {
		p.client.Close()
		p.server.CloseClientConnections()
		p.server.Close()
		cancel()
		group.Wait()
	}
	p.gateway.until(ctx, soon, func() bool { return p.gateway.leading })
}

func (p *fakePool) close() {
	for _, m := range p.members {
		m.disconnect()
	}
	p.errands.wait()
	p.stop()
}

// restart ends the gateway and brings up another on what Consul has.
func (p *fakePool) restart() {
	p.close()
	p.start()
	for _, m := range p.members {
		m.connect(p.gateway)
	}
}

func (p *fakePool) join(m *fakeMember) {
	m.t, m.pool = p.t, p
	m.runs, m.evals, m.allocs = map[jobKey]pool.CommitRequest{}, map[jobKey]string{}, map[string]*api.AllocationListStub{}
	p.members[m.alias] = m
	m.connect(p.gateway)
}

func france() *fakeMember {
	return &fakeMember{alias: "fr-par-1", place: pool.Place{Country: "FR", Continent: "EU"}, price: 1, gpus: 4}
}

func japan() *fakeMember {
	return &fakeMember{alias: "jp-tyo-1", place: pool.Place{Country: "JP", Continent: "AS"}, price: 2, gpus: 4}
}

// testJob is a valid job that asks for GPUs.
func testJob(id, kind string, count int) *api.Job {
	task := &api.Task{
		Name: "t", Driver: "runc", Config: map[string]any{"image": "registry.example/x"},
		Resources: &api.Resources{CPU: ptr(100), MemoryMB: ptr(64), Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}}},
	}
	return &api.Job{
		ID: &id, Name: &id, Type: &kind, Datacenters: []string{"*"},
		TaskGroups: []*api.TaskGroup{{Name: ptr("g"), Count: &count, Tasks: []*api.Task{task}}},
	}
}

// run submits a job and waits for its evaluation to end.
func (p *fakePool) run(job *api.Job) *api.Evaluation {
	p.t.Helper()
	reply, _, err := p.client.Jobs().Register(job, nil)
	must.NoError(p.t, err)
	return p.await(reply.EvalID)
}

func (p *fakePool) await(id string) *api.Evaluation {
	p.t.Helper()
	p.gateway.until(context.Background(), soon, func() bool { return p.gateway.evals.get(id).Status != api.EvalStatusPending })
	eval, _, err := p.client.Evaluations().Info(id, nil)
	must.NoError(p.t, err)
	return eval
}

// eventually waits for a condition on the gateway's memory.
func (p *fakePool) eventually(what string, met func() bool) {
	p.t.Helper()
	ok := false
	p.gateway.until(context.Background(), soon, func() bool { ok = met(); return ok })
	must.True(p.t, ok, must.Sprint("still not: "+what))
}

// live tells how many allocations of a job each member was given.
func (p *fakePool) live(id string) map[string]int {
	out := map[string]int{}
	for _, placement := range p.store.set(id).Placements {
		if isLive(placement) {
			for _, share := range placement.Groups {
				out[placement.Member] += share.Count
			}
		}
	}
	return out
}
