package device

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/device/control"
	"pangaea/device/holder"
	"pangaea/e2e/nvmlsim"
)

const someAlloc = "b2a1c3d4-0000-1111-2222-333344445555"

// process writes what /proc shows of one.
func process(t *testing.T, proc string, pid int, name, cgroup string) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	must.NoError(t, os.MkdirAll(dir, 0o755))
	for file, text := range map[string]string{
		"comm": name + "\n", "cgroup": cgroup + "\n", "environ": "", "stat": fmt.Sprintf("%d (%s) S 1 1 1 0 -1 4194560 0\n", pid, name),
	} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
}

// hold notes, as the driver does, that a task of someAlloc has devices.
func (r *rig) hold(task string, devices ...string) {
	text, err := json.Marshal(holder.Task{AllocID: someAlloc, Task: task, Namespace: "team", JobID: "model", Devices: devices, TaskDir: r.t.TempDir()})
	must.NoError(r.t, err)
	must.NoError(r.t, os.WriteFile(filepath.Join(string(r.monitor.settings.holders), task+".json"), text, 0o600))
}

const taskCgroup = "0::/nomad.slice/share.slice/" + someAlloc + ".train.scope"

func TestStatusTellsEverything(t *testing.T) {
	s := nvmlsim.Host("status", nvmlsim.L4(), 3)
	s.GPUs[0].Processes = []nvmlsim.Process{{Kind: "compute", PID: 71}, {Kind: "compute", PID: 72}}
	s.GPUs[1].Processes = []nvmlsim.Process{{Kind: "graphics", PID: 73}}
	s.GPUs[2].Lose()
	r := newRig(t, s)
	proc := t.TempDir()
	r.hold("train", s.GPUs[0].UUID)
	r.hold("idle", s.GPUs[1].UUID, s.GPUs[2].UUID)
	r.monitor.host.Proc = proc
	process(t, proc, 71, "python", taskCgroup)
	process(t, proc, 72, "python", taskCgroup)
	process(t, proc, 73, "blender", "0::/user.slice")
	r.round()
	s.GPUs[2].Faults = nil
	r.write()
	r.round()
	s.GPUs[2].Lose()
	r.write()
	got := r.round().status(r.now)
	must.Eq(t, "570.86.15", got.DriverVersion)
	must.Eq(t, "12.8", got.CUDAVersion)
	idle := []control.Task{{AllocID: someAlloc, Task: "idle", Namespace: "team", JobID: "model"}}
	want := map[string]control.GPU{
		s.GPUs[0].UUID: {Index: 0, BusID: "0000:1b:00.0", Healthy: true, Tasks: []control.Task{{
			AllocID: someAlloc, Task: "train", Namespace: "team", JobID: "model", Processes: []control.Process{{PID: 71, Name: "python"}, {PID: 72, Name: "python"}},
		}}},
		s.GPUs[1].UUID: {Index: 1, BusID: "0000:2b:00.0", Reason: "in use by its owner: blender (73)", OwnerProcesses: []control.Process{{PID: 73, Name: "blender"}}, Tasks: idle},
		s.GPUs[2].UUID: {Index: 2, BusID: "0000:3b:00.0", Reason: "fallen off the bus (nvmlDeviceGetHandleByIndex_v2: GPU is lost): power-cycle or reset it", Tasks: idle},
	}
	must.Len(t, 3, got.GPUs)
	for _, g := range got.GPUs {
		w := want[g.UUID]
		w.UUID, w.Model, w.Devices = g.UUID, "NVIDIA L4", []string{g.UUID}
		must.Eq(t, w, g)
	}
}

// The whole way: the owner leaves word, the plugin takes it in, says so, asks for evictions, and gives back.
func TestReclaimReachesTheStatus(t *testing.T) {
	must.NoError(t, nvmlsim.WriteState(statePath(), nvmlsim.Host("word", nvmlsim.RTX4090(), 2)))
	dir := control.Dir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	set := Config{Enabled: true, LibraryPath: library, FingerprintPeriod: "100ms", RecoverAfter: 1, ControlDir: string(dir)}.understand()
	m := newMonitor(set, hclog.NewNullLogger(), func(string) {})
	m.watchFor = shortWatch
	ended := make(chan struct{}, 2)
	go func() { m.run(ctx); ended <- struct{}{} }()
	go func() { m.report(ctx); ended <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
		m.endWatchers()
		m.session.shut()
	})
	await := func(what string, is func(control.Status) bool) control.Status {
		t.Helper()
		for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
			s, err := dir.Status(time.Now())
			if err == nil && is(s) {
				return s
			}
			must.True(t, time.Now().Before(deadline), must.Sprintf("%s: %v %+v", what, err, s))
		}
	}
	s := await("offered", func(s control.Status) bool { return len(s.GPUs) == 2 && s.GPUs[0].Healthy && s.GPUs[1].Healthy })
	mine, other := s.GPUs[0].UUID, s.GPUs[1].UUID
	must.NoError(t, dir.Reclaim(mine, control.Reclaim{By: "ada", Keep: true}))
	s = await("reclaimed", func(s control.Status) bool { return s.GPUs[0].Reclaim != nil })
	must.Eq(t, "reclaimed by its owner (ada)", s.GPUs[0].Reason)
	must.True(t, s.GPUs[1].Healthy)
	must.Eq(t, 0, len(m.evictions), must.Sprint("its tasks are kept"))

	must.NoError(t, dir.Reclaim(mine, control.Reclaim{By: "ada"}))
	e := receive(t, m.evictions)
	must.Eq(t, []string{mine}, e.cards)
	must.NoError(t, dir.Reclaim(control.All, control.Reclaim{By: "bob", Keep: true}))
	s = await("all reclaimed", func(s control.Status) bool { return s.GPUs[1].Reclaim != nil })
	must.Eq(t, "reclaimed by its owner (ada)", s.GPUs[0].Reason, must.Sprint("who asked for this very GPU"))
	must.Eq(t, other, s.GPUs[1].UUID)
	_, err := dir.Release(control.All)
	must.NoError(t, err)
	await("given back", func(s control.Status) bool { return s.GPUs[0].Healthy && s.GPUs[1].Healthy })

	must.NoError(t, os.Chmod(string(dir), 0o777))
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		u, _ := m.published.Load().find(mine)
		if !u.healthy {
			must.StrContains(t, u.reason, "others could write to it")
			return
		}
		must.True(t, time.Now().Before(deadline))
	}
}

// A GPU that its owner reclaimed is not offered for the first round either.
func TestReclaimedFromTheStart(t *testing.T) {
	s := nvmlsim.Host("early", nvmlsim.L4(), 1)
	r := newRig(t, s)
	must.NoError(t, r.monitor.settings.control.Reclaim(control.All, control.Reclaim{}))
	must.Eq(t, map[string]string{s.GPUs[0].UUID: "reclaimed by its owner"}, r.round().health())
}
