package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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

// fakeMember is a member agent and its Nomad in memory, at the far end of a tunnel.
type fakeMember struct {
	t       *testing.T
	pool    *fakePool
	alias   string
	place   pool.Place
	price   float64
	session *tunnel.Session
	cancel  context.CancelFunc
	done    chan struct{}

	sending   sync.Mutex
	mu        sync.Mutex
	sequence  uint64
	index     uint64
	gpus      int // free on its only node
	runs      map[jobKey]pool.CommitRequest
	evals     map[jobKey]string
	allocs    map[string]*api.AllocationListStub
	refuse    string              // reserve's answer, when set
	before    func()              // runs once, before the next commit is looked at
	broken    bool                // commands give errors
	gone      bool                // what the session's end has not waited for is answered no more
	finish    bool                // allocations complete at once
	moreNodes []*api.NodeListStub // beside its own
	bodies    int                 // full forms of nodes that were read
	reserved  int
	commits   int
	stops     []pool.StopRequest
	tokens    []string // of what came through the tunnel: there must be none
}

func (m *fakeMember) nodeID() string { return nodeIDOf(m.alias) }

func nodeIDOf(alias string) string {
	return deploymentID(jobKey{"node", alias}, 0, 0)
}

// connect opens the member's tunnel to a gateway and does what an agent does first.
func (m *fakeMember) connect(g *Gateway) pool.SyncReply {
	m.t.Helper()
	gateway, member, err := tunnel.Pipe(m.alias, tunnel.Config{Limits: tunneltest.Patient()})
	must.NoError(m.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.sending.Lock() // what is still to be told from before comes after the synchronisation
	m.set(func() { m.session, m.cancel, m.done, m.gone = member, cancel, done, false })
	var group sync.WaitGroup
	group.Go(func() { g.accept(ctx, gateway) })
	group.Go(func() { _ = member.Serve(ctx, m.handler()) })
	go func() { group.Wait(); close(done) }()
	reply := func() pool.SyncReply {
		defer m.sending.Unlock()
		return m.sync()
	}()
	for _, stop := range reply.Stop {
		m.stopRun(pool.StopRequest{PlacementRef: stop})
	}
	m.offer()
	m.status(true)
	return reply
}

func (m *fakeMember) disconnect() {
	session := m.tunnel()
	if session == nil {
		return
	}
	m.set(func() { m.session = nil })
	m.cancel()
	_ = session.Close()
	<-m.done
	m.set(func() { m.gone = true })
}

func (m *fakeMember) commitCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commits
}

// tunnel is the session that the member has, nil for none.
func (m *fakeMember) tunnel() *tunnel.Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

func (m *fakeMember) sync() pool.SyncReply {
	m.mu.Lock()
	request := pool.SyncRequest{Version: "test", Place: m.place, Price: m.price}
	for _, run := range m.runs {
		request.Placements = append(request.Placements, run.PlacementRef)
	}
	m.mu.Unlock()
	var reply pool.SyncReply
	m.send(pool.PathSync, request, &reply)
	return reply
}

func (m *fakeMember) send(path string, body, reply any) {
	m.t.Helper()
	data, err := json.Marshal(body)
	must.NoError(m.t, err)
	request, err := http.NewRequest(http.MethodPut, "http://gateway"+path, bytes.NewReader(data))
	must.NoError(m.t, err)
	session := m.tunnel()
	if session == nil {
		return
	}
	response, err := session.Transport().RoundTrip(request)
	if err != nil && isDone(session) { // the test cut the tunnel meanwhile
		return
	}
	must.NoError(m.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must.NoError(m.t, err)
	must.Eq(m.t, http.StatusOK, response.StatusCode, must.Sprint(string(text)))
	if reply != nil {
		must.NoError(m.t, json.Unmarshal(text, reply))
	}
}

func isDone(s *tunnel.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func (m *fakeMember) offer() {
	m.sending.Lock()
	defer m.sending.Unlock()
	m.send(pool.PathOffer, m.offerNow(), nil)
}

func (m *fakeMember) offerNow() pool.Offer {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sequence++
	free := m.gpus
	for _, stub := range m.allocs {
		if !terminal(stub.ClientStatus) {
			free--
		}
	}
	return pool.Offer{
		Sequence: m.sequence, Place: m.place, Price: m.price,
		Classes: []pool.NodeClass{{
			Node: &api.Node{
				Datacenter: "dc1", NodePool: "default", Attributes: map[string]string{"kernel.name": "linux"},
				Drivers: map[string]*api.DriverInfo{"runc": {Detected: true, Healthy: true}},
				NodeResources: &api.NodeResources{Devices: []*api.NodeDeviceResource{{
					Vendor: "nvidia", Type: "gpu", Name: "H100", Instances: []*api.NodeDevice{{ID: "a", Healthy: true}, {ID: "b", Healthy: true}, {ID: "c", Healthy: true}, {ID: "d", Healthy: true}},
				}}},
			},
			Free: []pool.Capacity{{Count: 1, CPU: 100000, MemoryMB: 100000, DiskMB: 100000, Devices: map[string]int{"nvidia/gpu/H100": free}}},
		}},
	}
}

func (m *fakeMember) status(full bool) {
	m.sending.Lock() // reports are made and sent one after the other, as an agent's are
	defer m.sending.Unlock()
	m.mu.Lock()
	status := pool.Status{Full: full}
	for _, stub := range m.allocs {
		copied := *stub
		status.Allocations = append(status.Allocations, &copied)
	}
	m.mu.Unlock()
	m.send(pool.PathStatus, status, nil)
}

func (m *fakeMember) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+pool.PathReserve, m.onReserve)
	mux.HandleFunc("PUT "+pool.PathRelease, func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("PUT "+pool.PathCommit, m.onCommit)
	mux.HandleFunc("PUT "+pool.PathStop, m.onStop)
	mux.HandleFunc("GET "+pool.PathDial, m.onDial)
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, append([]*api.NodeListStub{{
			ID: m.nodeID(), Name: m.alias + "-node", Datacenter: "dc1", NodePool: "default", Status: "ready", SchedulingEligibility: "eligible", Address: "10.0.0.1",
			Attributes: map[string]string{"os.name": "debian"}, NodeResources: &api.NodeResources{Memory: api.NodeMemoryResources{MemoryMB: 100000}}, ModifyIndex: 3,
		}}, m.moreNodes...))
	})
	mux.HandleFunc("GET /v1/node/{id}", func(w http.ResponseWriter, r *http.Request) {
		m.set(func() { m.bodies++ })
		if r.PathValue("id") != m.nodeID() {
			http.Error(w, "node not found", http.StatusNotFound)
			return
		}
		writeJSON(w, &api.Node{HTTPAddr: "10.0.0.1:4646", NodePool: "default", Attributes: map[string]string{"driver.runc": "1"}, ModifyIndex: 3, SchedulingEligibility: "eligible", ID: m.nodeID(), Name: m.alias + "-node", Datacenter: "dc1", Status: "ready", Meta: map[string]string{pool.MetaMember: m.alias}, NodeResources: &api.NodeResources{}, ReservedResources: &api.NodeReservedResources{}})
	})
	mux.HandleFunc("GET /v1/node/{id}/allocations", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.full()) })
	mux.HandleFunc("GET /v1/client/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, &api.HostStats{Memory: &api.HostMemoryStats{}})
	})
	mux.HandleFunc("GET /v1/job/{id}/deployment", m.onDeployment)
	mux.HandleFunc("GET /v1/allocation/{id}", m.onAlloc)
	mux.HandleFunc("PUT /v1/allocation/{id}/stop", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, map[string]any{"EvalID": deploymentID(jobKey{"eval", r.PathValue("id")}, 0, 0)})
	})
	mux.HandleFunc("GET /v1/evaluation/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Nomad-Index", "7")
		writeJSON(w, &api.Evaluation{ID: r.PathValue("id"), Status: "complete", Type: "service", JobID: "web"})
	})
	mux.HandleFunc("GET /v1/evaluation/{id}/allocations", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.full()) })
	mux.HandleFunc("GET /v1/client/fs/logs/{id}", m.onLogs)
	mux.HandleFunc("GET /v1/client/fs/ls/{id}", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, []*api.AllocFileInfo{{Name: "hello.txt", Size: 6, FileMode: "-rw-r--r--"}})
	})
	mux.HandleFunc("GET /v1/client/fs/stat/{id}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, &api.AllocFileInfo{Name: "hello.txt", IsDir: strings.HasSuffix(r.URL.Query().Get("path"), "/"), Size: 6})
	})
	mux.HandleFunc("GET /v1/client/fs/cat/{id}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") })
	mux.HandleFunc("PUT /v1/client/allocation/{id}/{command}", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]any{"Index": 1}) })
	mux.HandleFunc("GET /v1/client/allocation/{id}/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, &api.AllocResourceUsage{ResourceUsage: &api.ResourceUsage{MemoryStats: &api.MemoryStats{}, CpuStats: &api.CpuStats{}}})
	})
	mux.HandleFunc("GET /v1/client/allocation/{id}/checks", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]any{}) })
	mux.HandleFunc("GET /v1/client/allocation/{id}/exec", m.onExec)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.tokens = append(m.tokens, tokenOf(r))
		if m.gone {
			m.mu.Unlock()
			return
		}
		m.pool.errands.begin()
		defer m.pool.errands.end()
		m.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
}

func (m *fakeMember) onReserve(w http.ResponseWriter, r *http.Request) {
	var request pool.ReserveRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reserved++
	free := m.gpus
	for _, share := range request.Groups {
		free -= share.Count
	}
	for _, stub := range m.allocs {
		if !terminal(stub.ClientStatus) && stub.JobID != request.JobID {
			free--
		}
	}
	if free < 0 {
		writeJSON(w, pool.ReserveReply{Reason: "no room"})
		return
	}
	writeJSON(w, pool.ReserveReply{Granted: m.refuse == "", Reason: m.refuse})
}

func (m *fakeMember) onCommit(w http.ResponseWriter, r *http.Request) {
	var request pool.CommitRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	key := jobKey{request.Namespace, request.JobID}
	m.mu.Lock()
	before := m.before
	m.before = nil
	m.mu.Unlock()
	if before != nil {
		before()
	}
	m.mu.Lock()
	if m.broken {
		m.mu.Unlock()
		http.Error(w, "my Nomad is away", http.StatusInternalServerError)
		return
	}
	old, had := m.runs[key]
	if had && old.Epoch > request.Epoch {
		m.mu.Unlock()
		http.Error(w, "a higher epoch is registered", http.StatusConflict)
		return
	}
	m.commits++
	if !had || old.Epoch < request.Epoch || old.PlacementID != request.PlacementID {
		m.index++
		m.runs[key] = request
		m.evals[key] = newID()
		m.schedule(key, request)
	}
	reply := pool.CommitReply{EvalID: m.evals[key], JobModifyIndex: m.index}
	m.mu.Unlock()
	writeJSON(w, reply)
	m.pool.errands.run(func() { m.pool.news(m) })
}

// schedule is the member's Nomad: one allocation for each of the share. The caller holds mu.
func (m *fakeMember) schedule(key jobKey, request pool.CommitRequest) {
	for id, stub := range m.allocs {
		if stub.JobID == key.id && stub.Namespace == key.namespace {
			delete(m.allocs, id)
		}
	}
	for name, share := range request.Groups {
		for i := range share.Count {
			stub := &api.AllocationListStub{
				ID: newID(), EvalID: m.evals[key], Name: fmt.Sprintf("%s.%s[%d]", key.id, name, i), Namespace: key.namespace, NodeID: m.nodeID(),
				NodeName: m.alias + "-node", JobID: key.id, TaskGroup: name, DesiredStatus: "run", ClientStatus: "running", CreateTime: time.Now().UnixNano(),
				TaskStates: map[string]*api.TaskState{"t": {State: "running"}}, DeploymentStatus: &api.AllocDeploymentStatus{Healthy: ptr(true)},
			}
			if m.finish {
				stub.ClientStatus = "complete"
			}
			m.allocs[stub.ID] = stub
		}
	}
}

func (m *fakeMember) onStop(w http.ResponseWriter, r *http.Request) {
	var request pool.StopRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	m.stopRun(request)
	writeJSON(w, pool.CommitReply{})
	m.pool.errands.run(func() { m.pool.news(m) })
}

func (m *fakeMember) stopRun(request pool.StopRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stops = append(m.stops, request)
	key := jobKey{request.Namespace, request.JobID}
	if m.runs[key].PlacementID != request.PlacementID {
		return
	}
	delete(m.runs, key)
	for id, stub := range m.allocs {
		if stub.JobID == key.id && stub.Namespace == key.namespace {
			copied := *stub
			copied.ClientStatus, copied.DesiredStatus = "complete", "stop"
			m.allocs[id] = &copied
		}
	}
}
