package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/tunnel"
)

func (m *fakeMember) onDeployment(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := jobKey{or(r.URL.Query().Get("namespace"), "default"), r.PathValue("id")}
	run, ok := m.runs[key]
	if !ok {
		writeJSON(w, nil)
		return
	}
	out := &api.Deployment{ID: newID(), JobID: key.id, Status: "successful", JobSpecModifyIndex: m.index, TaskGroups: map[string]*api.DeploymentState{}}
	for name, share := range run.Groups {
		out.TaskGroups[name] = &api.DeploymentState{DesiredTotal: share.Count, PlacedAllocs: share.Count, HealthyAllocs: share.Count}
	}
	writeJSON(w, out)
}

func (m *fakeMember) full() []*api.Allocation {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*api.Allocation
	for _, stub := range m.allocs {
		out = append(out, m.alloc(stub))
	}
	return out
}

func (m *fakeMember) alloc(stub *api.AllocationListStub) *api.Allocation {
	run := m.runs[jobKey{stub.Namespace, stub.JobID}]
	return &api.Allocation{
		ID: stub.ID, EvalID: stub.EvalID, Name: stub.Name, Namespace: stub.Namespace, NodeID: stub.NodeID, NodeName: stub.NodeName, JobID: stub.JobID,
		Job: run.Job, TaskGroup: stub.TaskGroup, DesiredStatus: stub.DesiredStatus, ClientStatus: stub.ClientStatus, TaskStates: stub.TaskStates,
		Resources: &api.Resources{}, Metrics: &api.AllocationMetric{}, CreateTime: stub.CreateTime, ModifyTime: stub.CreateTime,
		AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{"t": {}}},
	}
}

func (m *fakeMember) onAlloc(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stub := m.allocs[r.PathValue("id")]
	if stub == nil {
		http.Error(w, "alloc not found", http.StatusNotFound)
		return
	}
	w.Header().Set("X-Nomad-Index", "7")
	writeJSON(w, m.alloc(stub))
}

func (m *fakeMember) onLogs(w http.ResponseWriter, r *http.Request) {
	data := "log of " + r.URL.Query().Get("type") + " at " + m.alias + "\n"
	_ = json.NewEncoder(w).Encode(&api.StreamFrame{Data: []byte(data), File: "t.stdout.0", Offset: int64(len(data))})
	if r.URL.Query().Get("follow") == "true" {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func (m *fakeMember) onExec(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.WriteJSON(map[string]any{"stdout": map[string]any{"data": []byte("exec at " + m.alias + "\n")}})
	_ = conn.WriteJSON(map[string]any{"stdout": map[string]any{"close": true}})
	_ = conn.WriteJSON(map[string]any{"stderr": map[string]any{"close": true}})
	_ = conn.WriteJSON(map[string]any{"exited": true, "result": map[string]any{"exit_code": 3}})
	_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

// onDial is a worker that answers with its name and what it was sent.
func (m *fakeMember) onDial(w http.ResponseWriter, r *http.Request) {
	stream, err := tunnel.AcceptStream(w, r)
	if err != nil {
		return
	}
	defer stream.Close()
	text, _ := io.ReadAll(stream)
	_, _ = fmt.Fprintf(stream, "%s[%s] got %s", m.alias, r.URL.Query().Get(pool.DialIndex), text)
	_ = stream.CloseWrite()
}
