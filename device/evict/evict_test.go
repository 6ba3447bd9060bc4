package evict

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// agent answers as a Nomad client agent whose node runs the given allocations.
type agent struct {
	mu      sync.Mutex
	allocs  []*api.Allocation
	refuse  string // the allocation that it will not stop
	stopped []string
	tokens  map[string]bool
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[r.Header.Get("X-Nomad-Token")] = true
	id, isStop := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/allocation/"), "/stop")
	switch {
	case r.URL.Path == "/v1/agent/self":
		_ = json.NewEncoder(w).Encode(api.AgentSelf{Stats: map[string]map[string]string{"client": {"node_id": "n1"}}})
	case r.URL.Path == "/v1/node/n1/allocations":
		_ = json.NewEncoder(w).Encode(a.allocs)
	case isStop && id != a.refuse:
		a.stopped = append(a.stopped, r.URL.Query().Get("namespace")+"/"+id)
		_ = json.NewEncoder(w).Encode(api.AllocStopResponse{})
	default:
		http.Error(w, "Permission denied", http.StatusForbidden)
	}
}

func alloc(id, desired, client string, devices ...string) *api.Allocation {
	return &api.Allocation{
		ID: id, Namespace: "team", JobID: "job", DesiredStatus: desired, ClientStatus: client,
		AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
			"t": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", DeviceIDs: devices}}},
		}},
	}
}

func TestStop(t *testing.T) {
	a := &agent{tokens: make(map[string]bool), refuse: "stubborn", allocs: []*api.Allocation{
		alloc("stubborn", "run", "running", "GPU-a"),
		alloc("holder", "run", "running", "GPU-x", "GPU-a"),
		alloc("pending", "run", "pending", "GPU-a::1"),
		alloc("other", "run", "running", "GPU-b"),
		alloc("done", "run", "complete", "GPU-a"),
		alloc("stopping", "stop", "running", "GPU-a"),
		{ID: "plain", DesiredStatus: "run", ClientStatus: "running"},
	}}
	server := httptest.NewServer(a)
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(token, []byte("s3cret\n"), 0o600))
	holders, stopped, err := Nomad{Address: server.URL, TokenFile: token}.Stop(t.Context(), []string{"GPU-a"})
	must.ErrorContains(t, err, "cannot stop allocation stubborn (the token needs alloc-lifecycle in team)")
	must.StrNotContains(t, err.Error(), "s3cret")
	must.Eq(t, []string{"holder", "pending"}, stopped)
	var have []string
	for _, h := range holders {
		must.Eq(t, "team/job/t", h.Namespace+"/"+h.JobID+"/"+h.Task)
		have = append(have, h.AllocID)
	}
	must.Eq(t, []string{"stubborn", "holder", "pending", "stopping"}, have)
	must.Eq(t, []string{"team/holder", "team/pending"}, a.stopped)
	must.Eq(t, map[string]bool{"s3cret": true}, a.tokens)
}

func TestStopCannot(t *testing.T) {
	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	serverOnly := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer serverOnly.Close()
	cases := []struct {
		name  string
		nomad Nomad
		want  string
	}{
		{"no token", Nomad{Address: refusing.URL, TokenFile: "/nonexistent/token"}, "cannot read the token for evictions"},
		{"refused", Nomad{Address: refusing.URL}, "cannot ask the Nomad agent who it is"},
		{"no client", Nomad{Address: serverOnly.URL}, "the Nomad agent asked is not a client"},
		{"no address", Nomad{Address: "::"}, "cannot speak to Nomad"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			holders, _, err := c.nomad.Stop(t.Context(), []string{"GPU-a"})
			must.Nil(t, holders)
			must.ErrorContains(t, err, c.want)
		})
	}
}
