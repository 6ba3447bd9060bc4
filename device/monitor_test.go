package device

import (
	"os"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// One of eight falls off the bus and comes back: as a call that fails, and as a list that gets shorter.
func TestOneOfEightFallsOffTheBus(t *testing.T) {
	r := newRig(t, nvmlsim.Host("bus", nvmlsim.H100SXM(), 8), func(s *settings) { s.limits.RecoverAfter = 3 })
	all := r.state.GPUs
	lost := all[3]
	const gone = "no longer listed by the driver: fallen off the bus or handed to a virtual machine"
	const failed = "fallen off the bus (nvmlDeviceGetHandleByIndex_v2: GPU is lost): power-cycle or reset it"
	steps := []struct {
		name   string
		change func()
		want   string
	}{
		{"at first", func() {}, ""},
		{"lost", lost.Lose, failed},
		{"still lost", func() {}, failed},
		{"back", func() { lost.Faults = nil }, "recovering from: " + failed},
		{"back for two rounds", func() {}, "recovering from: " + failed},
		{"back for three", func() {}, ""},
		{"off the list", func() { r.state.GPUs = append(append([]*nvmlsim.GPU{}, all[:3]...), all[4:]...) }, gone},
		{"on it again", func() { r.state.GPUs = all }, "recovering from: " + gone},
		{"for two rounds", func() {}, "recovering from: " + gone},
		{"for three", func() {}, ""},
	}
	for _, step := range steps {
		step.change()
		r.write()
		want := make(map[string]string)
		for _, g := range all {
			want[g.UUID] = ""
		}
		want[lost.UUID] = step.want
		must.Eq(t, want, r.round().health(), must.Sprint(step.name))
	}
}

// A driver that comes late, goes, comes back, and is replaced: the GPUs stay listed, with the reason.
func TestDriverComesAndGoes(t *testing.T) {
	r := newRig(t, nvmlsim.Host("late", nvmlsim.L40S(), 2))
	with := func(reason string) map[string]string {
		return map[string]string{r.state.GPUs[0].UUID: reason, r.state.GPUs[1].UUID: reason}
	}
	must.NoError(t, os.Remove(statePath()))
	must.MapEmpty(t, r.round().health())
	must.MapEmpty(t, r.round().health())
	r.write()
	must.Eq(t, with(""), r.round().health())

	must.NoError(t, os.Remove(statePath()))
	must.Eq(t, with("NVIDIA driver not loaded (nvmlSystemGetDriverVersion): load the nvidia module"), r.round().health())
	must.Eq(t, with("NVIDIA driver not loaded (nvmlInit_v2): load the nvidia module"), r.round().health())
	r.state.DriverVersion = "580.95.05"
	r.write()
	s := r.round()
	must.Eq(t, with(""), s.health())
	must.Eq(t, "580.95.05", s.machine.DriverVersion)

	r.state.Faults = []nvmlsim.Fault{{Call: "*", Code: 18}}
	r.write()
	must.StrContains(t, r.round().health()[r.state.GPUs[0].UUID], "reload the driver or reboot")
	must.Eq(t, "", r.restart, must.Sprint("a fresh process would load the same library"))
	code, err := os.ReadFile(library)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(library+".new", code, 0o755))
	must.NoError(t, os.Rename(library+".new", library))
	r.round()
	must.Eq(t, "the NVIDIA driver was upgraded", r.restart)
}

// A call that hangs costs its own GPU, after the limit, and nobody else; the reason does not change while it lasts.
func TestHangingCall(t *testing.T) {
	r := newRig(t, nvmlsim.Host("hang", nvmlsim.H100SXM(), 8), func(s *settings) { s.hangAfter = time.Hour })
	must.Eq(t, allWell(r.state), r.round().health())
	stuck := r.state.GPUs[5]
	stuck.Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetTemperature", DelayMS: forEver}}
	r.write()
	must.Eq(t, allWell(r.state), r.round().health(), must.Sprint("it may be slow"))
	r.now = r.now.Add(time.Hour)
	var reason string
	for range 2 {
		got := r.round().health()
		must.StrHasPrefix(t, "NVML call nvmlDeviceGetTemperature hangs since ", got[stuck.UUID])
		if reason != "" {
			must.Eq(t, reason, got[stuck.UUID])
		}
		reason = got[stuck.UUID]
		got[stuck.UUID] = ""
		must.Eq(t, allWell(r.state), got)
	}
	stuck.Faults = nil
	r.write()
	for deadline := time.Now().Add(soon); ; {
		got := r.round().health()
		if got[stuck.UUID] == "" {
			must.Eq(t, allWell(r.state), got)
			return
		}
		must.True(t, time.Now().Before(deadline), must.Sprint("the call returned, but its GPU did not"))
		got[stuck.UUID] = ""
		must.Eq(t, allWell(r.state), got)
	}
}

func TestXidTakesItsGPUOut(t *testing.T) {
	r := newRig(t, nvmlsim.Host("xid", nvmlsim.H100SXM(), 2))
	must.Eq(t, allWell(r.state), r.round().health())
	must.Eq(t, allWell(r.state), r.waitForWatchers().health())
	cases := []struct {
		xid  uint64
		want string
	}{{31, ""}, {79, "Xid 79: fallen off the bus"}}
	for _, c := range cases {
		r.state.GPUs[1].Xid(c.xid)
		r.write()
		e := receive(t, r.monitor.xids)
		for e.xid == proof { // one that was late
			e = receive(t, r.monitor.xids)
		}
		must.Eq(t, c.xid, e.xid)
		r.now = e.at
		r.monitor.note(e)
		got := r.round().health()
		must.Eq(t, c.want, got[r.state.GPUs[1].UUID])
		must.Eq(t, "", got[r.state.GPUs[0].UUID])
	}
}

// proof is the Xid of events that prove that events are registered for.
const proof = 13

// waitForWatchers makes sure that events are registered for: an event is taken note of only if it proves so. More of
// these may be on their way.
func (r *rig) waitForWatchers() *snapshot {
	g := r.state.GPUs[1]
	for {
		g.Xid(proof)
		r.write()
		select {
		case <-r.monitor.xids:
			return r.round()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestMIGInstancesFollowTheirGPU(t *testing.T) {
	s := nvmlsim.Host("mig", nvmlsim.A100PCIe40GB(), 2)
	s.GPUs[0].Set("MigMode", 1, 1)
	s.GPUs[0].MIG = []nvmlsim.MIG{{UUID: "MIG-a", Profile: "1g.5gb", MemoryMiB: 4864, GI: 1}, {UUID: "MIG-b", Profile: "2g.10gb", MemoryMiB: 9856, GI: 2}}
	r := newRig(t, s)
	want := map[string]string{"MIG-a": "", "MIG-b": "", s.GPUs[1].UUID: ""}
	must.Eq(t, want, r.round().health())
	u, _ := r.monitor.published.Load().find("MIG-b")
	must.Eq(t, "NVIDIA A100-PCIE-40GB MIG 2g.10gb", u.name)
	must.Eq(t, int64(9856), *attributes(u, r.monitor.machine)["memory"].Int)
	must.Eq(t, "2g.10gb", *attributes(u, r.monitor.machine)["mig_profile"].String)

	s.GPUs[0].Set("RemappedRows", 0, 1, 1, 0)
	r.write()
	want["MIG-a"], want["MIG-b"] = "row remap pending: reset the GPU", "row remap pending: reset the GPU"
	must.Eq(t, want, r.round().health())

	s.GPUs[0].Set("RemappedRows", 0, 1, 0, 0)
	s.GPUs[0].Set("MigMode", 0, 0)
	s.GPUs[0].MIG = nil
	r.write()
	must.Eq(t, allWell(s), r.round().health())
}

func TestOwnerFirst(t *testing.T) {
	r := newRig(t, nvmlsim.Host("home", nvmlsim.RTX4090(), 2))
	proc := t.TempDir()
	r.monitor.host.Proc = proc
	must.NoError(t, os.MkdirAll(proc+"/77", 0o755))
	must.NoError(t, os.WriteFile(proc+"/77/comm", []byte("cyberpunk\n"), 0o644))
	must.NoError(t, os.WriteFile(proc+"/77/cgroup", []byte("0::/user.slice\n"), 0o644))
	must.NoError(t, os.WriteFile(proc+"/77/stat", []byte("77 (cyberpunk) S 1 77 77 0 -1 4194560 0\n"), 0o644))
	must.Eq(t, allWell(r.state), r.round().health())
	r.state.GPUs[0].Processes = []nvmlsim.Process{{Kind: "graphics", PID: 77}}
	r.write()
	want := allWell(r.state)
	want[r.state.GPUs[0].UUID] = "in use by its owner: cyberpunk (77)"
	must.Eq(t, want, r.round().health())
	r.state.GPUs[0].Processes = nil
	r.write()
	must.Eq(t, allWell(r.state), r.round().health())
}
