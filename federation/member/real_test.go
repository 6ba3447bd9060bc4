package member

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"pangaea/federation/nomad"
	"pangaea/federation/nomad/nomadtest"
	"pangaea/federation/pool"
	"pangaea/federation/state/statetest"
	"pangaea/federation/tunnel"
	"pangaea/federation/tunnel/tunneltest"
)

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// fakeGateway is a gateway's side of one session: it records what the agent says.
type fakeGateway struct {
	t       *testing.T
	session *tunnel.Session

	mu      sync.Mutex
	sync    pool.SyncRequest
	stop    []pool.PlacementRef
	offer   pool.Offer
	allocs  map[string]*api.AllocationListStub
	jobs    map[string]*api.JobSummary
	follow  bool         // answers that another gateway leads
	streams http.Handler // of PathRelay
	// refused counts those answers.
	refused int
	order   []string
}

func (g *fakeGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == pool.PathRelay {
		g.streams.ServeHTTP(w, r)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.follow {
		g.refused++
		http.Error(w, "not the leader", http.StatusServiceUnavailable)
		return
	}
	g.order = append(g.order, r.URL.Path)
	switch r.URL.Path {
	case pool.PathSync:
		var sync pool.SyncRequest
		if !g.read(r, &sync) {
			return
		}
		g.sync = sync
		_ = json.NewEncoder(w).Encode(pool.SyncReply{Stop: g.stop, Heartbeat: 200 * time.Millisecond})
	case pool.PathOffer:
		var offer pool.Offer
		if g.read(r, &offer) {
			g.offer = offer
		}
	case pool.PathStatus:
		var status pool.Status
		if !g.read(r, &status) {
			return
		}
		if status.Full || g.allocs == nil {
			g.allocs, g.jobs = map[string]*api.AllocationListStub{}, map[string]*api.JobSummary{}
		}
		for _, a := range status.Allocations {
			g.allocs[a.ID] = a
		}
		for name, summary := range status.Jobs {
			g.jobs[name] = summary
		}
	default:
		http.NotFound(w, r)
	}
}

// read tells whether a message came whole: the end of a session cuts off what is under way, and does not wait for it.
func (g *fakeGateway) read(r *http.Request, message any) bool {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	must.NoError(g.t, json.Unmarshal(text, message), must.Sprint(string(text)))
	return true
}

// see waits until something is true of what the gateway knows.
func (g *fakeGateway) see(what string, ok func(*fakeGateway) bool) {
	g.t.Helper()
	must.Wait(g.t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return ok(g)
	}), wait.Timeout(soon), wait.Gap(10*time.Millisecond)), must.Sprint(what))
}

// offered is the latest offer.
func (g *fakeGateway) offered() pool.Offer {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.offer
}

// statusOf is what it was told last of an allocation that it knows.
func (g *fakeGateway) statusOf(id string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.allocs[id].ClientStatus
}

// call sends a request to the agent and returns status and body.
func (g *fakeGateway) call(method, path string, message, reply any) (int, string) {
	g.t.Helper()
	var body io.Reader
	if message != nil {
		text, err := json.Marshal(message)
		must.NoError(g.t, err)
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(g.t.Context(), method, "http://member"+path, body)
	must.NoError(g.t, err)
	response, err := (&http.Client{Transport: g.session.Transport()}).Do(request)
	must.NoError(g.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must.NoError(g.t, err)
	if reply != nil && response.StatusCode == http.StatusOK {
		must.NoError(g.t, json.Unmarshal(text, reply), must.Sprint(string(text)))
	}
	return response.StatusCode, string(text)
}

// connect joins an agent to a fake gateway over an in-memory tunnel.
func connect(t *testing.T, agent *Agent, prepare func(*fakeGateway)) *fakeGateway {
	t.Helper()
	gatewaySide, memberSide, err := tunnel.Pipe(agent.config.Alias, tunnel.Config{Limits: tunneltest.Patient()})
	must.NoError(t, err)
	g := &fakeGateway{t: t, session: gatewaySide}
	if prepare != nil {
		prepare(g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = gatewaySide.Serve(ctx, g) })
	group.Go(func() { agent.Serve(ctx, memberSide) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	return g
}

func startAgent(t *testing.T, config Config, client *nomad.Client) *Agent {
	t.Helper()
	agent := New(config, client, hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: logOf(t)}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return agent
}

// testLog is a test's log until the test ends: what an agent still answers by then, its end does not wait for.
type testLog struct {
	mu sync.Mutex
	t  *testing.T // nil after the end
}

func logOf(t *testing.T) *testLog {
	l := &testLog{t: t}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t = nil
	})
	return l
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func testConfig() Config {
	return Config{
		Alias: "fr-par-1", Country: "FR", Continent: "EU", Price: 1.5, Gateways: []string{"127.0.0.1:1"},
		Policy: &Policy{AllowDrivers: []string{"raw_exec"}}, Relay: &RelayConfig{BindAddr: statetest.Loopback()},
	}.withDefaults()
}

// shellJob is a service that runs a shell script.
func shellJob(id string, count int, script string) *api.Job {
	task := api.NewTask("main", "raw_exec").SetConfig("command", "/bin/sh").SetConfig("args", []string{"-c", script})
	task.Resources = &api.Resources{CPU: ptr(20), MemoryMB: ptr(20)}
	group := api.NewTaskGroup("web", count).AddTask(task)
	group.EphemeralDisk = &api.EphemeralDisk{SizeMB: ptr(150)}
	job := api.NewServiceJob(id, id, "", 60)
	job.Region = nil
	job.Datacenters = []string{"*"}
	job.Namespace = ptr("default")
	return job.AddTaskGroup(group)
}

func ref(id string, epoch uint64) pool.PlacementRef {
	return pool.PlacementRef{Namespace: "default", JobID: id, PlacementID: "p-" + id, Epoch: epoch}
}

func commit(job *api.Job, epoch uint64, share pool.GroupShare) pool.CommitRequest {
	return pool.CommitRequest{PlacementRef: ref(*job.ID, epoch), Job: job, Groups: map[string]pool.GroupShare{"web": share}}
}

func TestRealMember(t *testing.T) {
	cluster := nomadtest.Start(t, "pool-default")
	client, err := nomad.Open(nomad.Config{Address: cluster.Address, TokenFile: cluster.TokenFile})
	must.NoError(t, err)
	agent := startAgent(t, testConfig(), client)
	g := connect(t, agent, nil)
	r := &realRig{cluster: cluster, client: client, agent: agent, gateway: g}
	r.owner = r.runOwnersJob(t)
	t.Run("offer", r.testOffer)
	t.Run("placement", r.testPlacement)
	t.Run("passthrough", r.testPassthrough)
	t.Run("refusals", r.testRefusals)
	t.Run("gang", r.testGang)
	t.Run("relay", r.testRelay)
	t.Run("sync", r.testSync)
	t.Run("lease", r.testLease)
}

type realRig struct {
	cluster *nomadtest.Nomad
	client  *nomad.Client
	agent   *Agent
	gateway *fakeGateway
	owner   *api.AllocationListStub
}

// runOwnersJob runs a job of the owner's own, which the pool must never see.
func (r *realRig) runOwnersJob(t *testing.T) *api.AllocationListStub {
	t.Helper()
	owners := r.cluster.Client(r.cluster.Token)
	_, _, err := owners.Jobs().Register(shellJob("secret", 1, "sleep 600"), nil)
	must.NoError(t, err)
	var allocation *api.AllocationListStub
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		list, _, err := owners.Jobs().Allocations("secret", false, nil)
		if err != nil || len(list) == 0 || list[0].ClientStatus != "running" {
			return false
		}
		allocation = list[0]
		return true
	}), wait.Timeout(soon), wait.Gap(50*time.Millisecond)))
	return allocation
}

func (r *realRig) testOffer(t *testing.T) {
	g := r.gateway
	g.see("an offer with the pool's metadata and the owner's job taken off", func(g *fakeGateway) bool {
		if len(g.offer.Classes) != 1 {
			return false
		}
		class := g.offer.Classes[0]
		total := class.Node.NodeResources.Cpu.CpuShares
		return class.Node.Meta[pool.MetaCountry] == "FR" && class.Node.Meta[pool.MetaPrice] == "1.5" && class.Free[0].CPU == total-20
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	must.Eq(t, []string{pool.PathSync, pool.PathStatus}, g.order[:2])
	must.Eq(t, pool.Place{Country: "FR", Continent: "EU"}, g.offer.Place)
	text, err := json.Marshal(g.offer)
	must.NoError(t, err)
	must.StrNotContains(t, string(text), "127.0.0.1")
	must.StrNotContains(t, string(text), "unique.")
}

func (r *realRig) testPlacement(t *testing.T) {
	g := r.gateway
	job := shellJob("web", 5, "echo hello; exec sleep 600")
	share := pool.GroupShare{Count: 2, Offset: 3, Total: 5}
	var granted pool.ReserveReply
	status, text := g.call("PUT", pool.PathReserve, pool.ReserveRequest{
		PlacementRef: ref("web", 3), Job: job, Groups: map[string]pool.GroupShare{"web": share}, TTL: time.Minute,
	}, &granted)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.True(t, granted.Granted, must.Sprint(granted.Reason))
	total := g.offered().Classes[0].Node.NodeResources.Cpu.CpuShares
	g.see("an offer less what is held", func(g *fakeGateway) bool { return g.offer.Classes[0].Free[0].CPU == total-20-40 })

	var first, again pool.CommitReply
	started := time.Now()
	status, text = g.call("PUT", pool.PathCommit, commit(job, 3, share), &first)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	g.see("two running allocations", func(g *fakeGateway) bool { return r.running(g, "web") == 2 })
	t.Logf("commit to running: %s", time.Since(started))
	g.see("the summary", func(g *fakeGateway) bool {
		summary := g.jobs["default/web"]
		return summary != nil && summary.Summary["web"].Running == 2 && summary.Namespace == "default"
	})
	must.Eq(t, total-20-40, g.offered().Classes[0].Free[0].CPU, must.Sprint("what runs must not be taken off twice"))
	status, _ = g.call("PUT", pool.PathCommit, commit(job, 3, share), &again)
	must.Eq(t, http.StatusOK, status)
	must.Eq(t, first, again)
	status, text = g.call("PUT", pool.PathCommit, commit(job, 2, share), nil)
	must.Eq(t, http.StatusConflict, status, must.Sprint(text))

	before := r.ids("web")
	share.Count = 3
	status, text = g.call("PUT", pool.PathCommit, commit(job, 4, share), &first)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	g.see("a third allocation", func(g *fakeGateway) bool { return r.running(g, "web") == 3 })
	for id := range before {
		must.Eq(t, "running", g.statusOf(id), must.Sprint("a higher epoch must not replace what runs"))
	}
	registered, err := r.client.Job(t.Context(), "pool-default", "web")
	must.NoError(t, err)
	must.Eq(t, "p-web", registered.Meta[pool.MetaPlacement])
	must.Eq(t, 50, *registered.Priority, must.Sprint("the owner's max_priority holds"))
	label, err := readTag(registered)
	must.NoError(t, err)
	must.Eq(t, uint64(4), label.Epoch)
	must.Eq(t, 3, label.Offsets["web"])
}

func (r *realRig) running(g *fakeGateway, job string) int {
	count := 0
	for _, a := range g.allocs {
		if a.JobID == job && a.Namespace == "default" && a.ClientStatus == "running" && a.DesiredStatus == "run" {
			count++
		}
	}
	return count
}

func (r *realRig) ids(job string) map[string]bool {
	g := r.gateway
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := map[string]bool{}
	for id, a := range g.allocs {
		if a.JobID == job {
			ids[id] = true
		}
	}
	return ids
}
