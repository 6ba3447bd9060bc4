package device

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/device/control"
	"pangaea/device/evict"
	"pangaea/e2e/nvmlsim"
)

// What the owner claims is asked back once at first, and again while he still claims it; what he does not is left alone.
func TestClaimsAreEvicted(t *testing.T) {
	s := nvmlsim.Host("evict", nvmlsim.RTX4090(), 2)
	file := filepath.Join(t.TempDir(), "reclaim")
	r := newRig(t, s, func(set *settings) {
		set.evict = true
		set.owner.ReclaimFile = file
	})
	must.Eq(t, allWell(s), r.round().health())
	must.Eq(t, 0, len(r.monitor.evictions))
	cases := []struct {
		name, text string
		want       map[string]string
	}{
		{"one GPU", "# back please\n" + s.GPUs[1].UUID + "\n", map[string]string{s.GPUs[0].UUID: "", s.GPUs[1].UUID: "reclaimed by its owner"}},
		{"all", "", map[string]string{s.GPUs[0].UUID: "reclaimed by its owner", s.GPUs[1].UUID: "reclaimed by its owner"}},
	}
	for _, c := range cases {
		must.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
		must.Eq(t, c.want, r.round().health(), must.Sprint(c.name))
		for id, reason := range c.want {
			if reason == "" {
				continue
			}
			e := receive(t, r.monitor.evictions)
			must.Eq(t, "reclaimed by its owner", e.reason)
			must.MapContainsKey(t, c.want, e.uuid, must.Sprint(id))
			must.Eq(t, []string{e.uuid}, e.cards)
			must.Eq(t, "reclaimed by its owner", c.want[e.uuid])
		}
		must.Eq(t, 0, len(r.monitor.evictions))
	}
	must.NoError(t, os.Remove(file))
	must.Eq(t, allWell(s), r.round().health())
	must.Eq(t, 0, len(r.monitor.evictions))
}

// Without the option nothing is ever stopped, and sickness is no claim.
func TestNothingElseIsEvicted(t *testing.T) {
	s := nvmlsim.Host("spare", nvmlsim.RTX4090(), 1)
	file := filepath.Join(t.TempDir(), "reclaim")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	quiet := newRig(t, s, func(set *settings) { set.owner.ReclaimFile = file })
	quiet.round()
	must.Eq(t, 0, len(quiet.monitor.evictions))

	sick := newRig(t, s, func(set *settings) { set.evict = true })
	s.GPUs[0].Set("RemappedRows", 0, 1, 1, 0)
	sick.write()
	must.NotEq(t, allWell(s), sick.round().health())
	must.Eq(t, 0, len(sick.monitor.evictions))
}

// A task that was granted a GPU has it before it has a process there, and until its allocation has ended.
func TestReclaimKnowsHolders(t *testing.T) {
	s := nvmlsim.Host("holders", nvmlsim.RTX4090(), 1)
	uuid := s.GPUs[0].UUID
	var mu sync.Mutex
	alloc := &api.Allocation{ID: someAlloc, Namespace: "team", JobID: "model", DesiredStatus: "run", ClientStatus: "pending", AllocatedResources: &api.AllocatedResources{
		Tasks: map[string]*api.AllocatedTaskResources{"train": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", DeviceIDs: []string{uuid}}}}},
	}}
	change := func(desired, client string) {
		mu.Lock()
		defer mu.Unlock()
		alloc.DesiredStatus, alloc.ClientStatus = desired, client
	}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch q.URL.Path {
		case "/v1/agent/self":
			_ = json.NewEncoder(w).Encode(api.AgentSelf{Stats: map[string]map[string]string{"client": {"node_id": "n"}}})
		case "/v1/node/n/allocations":
			_ = json.NewEncoder(w).Encode([]*api.Allocation{alloc})
		case "/v1/allocation/" + someAlloc + "/stop":
			alloc.DesiredStatus = "stop"
			_ = json.NewEncoder(w).Encode(api.AllocStopResponse{})
		default:
			http.NotFound(w, q)
		}
	}))
	defer agent.Close()
	r := newRig(t, s)
	must.NoError(t, r.monitor.settings.control.Reclaim(uuid, control.Reclaim{By: "me"}))
	nomad := evict.Nomad{Address: agent.URL}
	look := func() control.GPU {
		t.Helper()
		return r.round().gpus[0]
	}
	answer := func() { r.monitor.carryOut(t.Context(), nomad, receive(t, r.monitor.evictions)) }

	must.True(t, look().Asking, must.Sprint("nobody has been asked yet"))
	answer()
	want := []control.Task{{AllocID: someAlloc, Task: "train", Namespace: "team", JobID: "model"}}
	got := look()
	must.False(t, got.Asking)
	must.Eq(t, want, got.Tasks)
	answer()
	must.Eq(t, want, look().Tasks, must.Sprint("it is being stopped"))
	change("stop", "complete")
	answer()
	must.SliceEmpty(t, look().Tasks)

	nomad.Address = "http://127.0.0.1:1"
	answer()
	must.StrContains(t, look().Problem, "cannot ask the Nomad agent")
}
