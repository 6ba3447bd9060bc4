package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"

	"pangaea/e2e/mpssim"
	"pangaea/e2e/nvmlsim"
)

// exclusive puts a GPU into the compute mode that MPS wants.
func exclusive(g *nvmlsim.GPU) { g.Set("ComputeMode", 3) }

// newMPSRig is a rig whose GPUs are shared by MPS, with a control daemon that does not run yet.
func newMPSRig(t *testing.T, s nvmlsim.State, replicas int) (*rig, *mpssim.Control) {
	t.Helper()
	c, err := mpssim.New(t.TempDir())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.Kill()) })
	t.Setenv("PATH", c.Bin+":"+os.Getenv("PATH"))
	r := newRig(t, s, func(set *settings) {
		set.replicas = replicas
		set.mps = &mpsClients{dir: c.Pipe, mount: true}
	})
	r.monitor.shares.within = soon
	return r, c
}

// told lets the monitor look until the daemon has answered what it is being told, and once more.
func (r *rig) told() *snapshot {
	r.t.Helper()
	r.round()
	must.True(r.t, r.monitor.shares.telling, must.Sprint("nothing is told"))
	select {
	case <-r.monitor.pokes:
	case <-time.After(2 * soon):
		r.t.Fatal("the telling does not end")
	}
	return r.round()
}

// reasons are those of a GPU's shares, each once.
func reasons(s *snapshot, uuid string) string {
	var all []string
	for id, reason := range s.health() {
		if card(id) == uuid {
			all = append(all, reason)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " and ")
}

// A daemon that goes and comes takes the shares with it, each within one round, and is told the bounds anew.
func TestSharesFollowTheMPSDaemon(t *testing.T) {
	s := nvmlsim.Host("mps", nvmlsim.L4(), 2)
	for _, g := range s.GPUs {
		exclusive(g)
	}
	r, c := newMPSRig(t, s, 4)
	uuid := s.GPUs[1].UUID
	dead := "the MPS control daemon does not run: run CUDA_MPS_PIPE_DIRECTORY=" + c.Pipe + " nvidia-cuda-mps-control -d ("
	must.StrContains(t, reasons(r.round(), uuid), dead)
	must.Len(t, 8, r.monitor.published.Load().units)

	must.NoError(t, c.Start())
	must.Eq(t, "", reasons(r.told(), uuid))
	want := []string{
		"set_default_active_thread_percentage 25", "get_default_active_thread_percentage", "get_server_list",
		"set_default_device_pinned_mem_limit A 5758M", "set_default_device_pinned_mem_limit B 5758M",
	}
	uuids := []string{s.GPUs[0].UUID, s.GPUs[1].UUID}
	slices.Sort(uuids)
	asked := func() string {
		all, err := c.Asked()
		must.NoError(t, err)
		return strings.NewReplacer(uuids[0], "A", uuids[1], "B").Replace(strings.Join(all, "\n"))
	}
	must.Eq(t, strings.Join(want, "\n"), asked())
	for range 3 {
		must.Eq(t, "", reasons(r.round(), uuid))
	}
	must.False(t, r.monitor.shares.telling)

	must.NoError(t, c.Kill())
	must.StrContains(t, reasons(r.round(), uuid), dead)
	must.NoError(t, c.Start())
	must.StrContains(t, reasons(r.round(), uuid), "is being told how much each share may use", must.Sprint("another daemon knows nothing yet"))
	<-r.monitor.pokes
	must.Eq(t, "", reasons(r.round(), uuid))
	must.Eq(t, strings.Join(append(want, want...), "\n"), asked())
}

// One daemon that took another's place between two rounds is told too.
func TestMPSDaemonThatWasReplaced(t *testing.T) {
	s := nvmlsim.Host("replaced", nvmlsim.L4(), 1)
	exclusive(s.GPUs[0])
	r, c := newMPSRig(t, s, 2)
	must.NoError(t, c.Start())
	must.Eq(t, "", reasons(r.told(), s.GPUs[0].UUID))
	must.NoError(t, c.Kill())
	must.NoError(t, c.Start())
	must.Eq(t, "", reasons(r.told(), s.GPUs[0].UUID))
	asked, err := c.Asked()
	must.NoError(t, err)
	must.Len(t, 8, asked)
}

// Rounds never wait for a daemon that hangs, and one that comes in its place is none of it.
func TestMPSDaemonThatHangs(t *testing.T) {
	s := nvmlsim.Host("hangs", nvmlsim.L4(), 1)
	exclusive(s.GPUs[0])
	r, c := newMPSRig(t, s, 4)
	uuid := s.GPUs[0].UUID
	must.NoError(t, c.Start())
	must.NoError(t, c.Behave("hang"))
	for range 3 {
		must.StrContains(t, reasons(r.round(), uuid), "is being told how much each share may use")
		must.True(t, r.monitor.shares.telling, must.Sprint("rounds go on meanwhile"))
	}
}

// What is answered wrongly, or not in time, is the reason until a later try succeeds.
func TestMPSDaemonThatMisbehaves(t *testing.T) {
	s := nvmlsim.Host("misbehaves", nvmlsim.L4(), 1)
	exclusive(s.GPUs[0])
	r, c := newMPSRig(t, s, 4)
	uuid := s.GPUs[0].UUID
	must.NoError(t, c.Start())
	must.NoError(t, c.Behave("garbage"))
	must.StrContains(t, reasons(r.told(), uuid), `answers get_default_active_thread_percentage with "flubber [2J", not with the 25`)
	must.NoError(t, c.Behave("hang"))
	r.monitor.shares.within = 300 * time.Millisecond
	must.StrContains(t, reasons(r.told(), uuid), "the MPS control daemon does not answer set_default_active_thread_percentage: restart it")
	must.NoError(t, c.Behave(""))
	r.monitor.shares.within = soon
	must.Eq(t, "", reasons(r.told(), uuid))
	must.Eq(t, "", reasons(r.round(), uuid))
}

// What the daemon refuses of one GPU is that one's reason alone.
func TestMPSDaemonThatRefusesOneGPU(t *testing.T) {
	s := nvmlsim.Host("refuses", nvmlsim.L4(), 2)
	for _, g := range s.GPUs {
		exclusive(g)
	}
	r, c := newMPSRig(t, s, 4)
	must.NoError(t, c.Start())
	must.NoError(t, c.Behave("refuse "+s.GPUs[0].UUID))
	now := r.told()
	must.StrContains(t, reasons(now, s.GPUs[0].UUID), `set_default_device_pinned_mem_limit `+s.GPUs[0].UUID+` 5758M": exit status 1: "Invalid device"`)
	must.Eq(t, "", reasons(now, s.GPUs[1].UUID))
}

// GPUs on which MPS could not hold what it promises are not offered, with what to do.
func TestGPUsThatMPSDoesNotBound(t *testing.T) {
	s := nvmlsim.Host("modes", nvmlsim.A100PCIe40GB(), 1)
	exclusive(s.GPUs[0])
	r, c := newMPSRig(t, s, 4)
	must.NoError(t, c.Start())
	g := s.GPUs[0]
	must.Eq(t, "", reasons(r.told(), g.UUID))
	was := make(map[string]string)
	set := func(name string, values ...any) func() {
		return func() { was[name] = g.Readings[name]; g.Set(name, values...) }
	}
	cases := []struct {
		name   string
		change func()
		reason string
	}{
		{"shared with whoever likes", set("ComputeMode", 0), "its compute mode is DEFAULT, in which programs can go past MPS and its bounds: run nvidia-smi -i " + g.UUID + " -c EXCLUSIVE_PROCESS"},
		{"an old mode", set("ComputeMode", 1), "its compute mode is EXCLUSIVE_THREAD,"},
		{"closed", set("ComputeMode", 2), "its compute mode is PROHIBITED,"},
		{"a new mode", set("ComputeMode", 9), "its compute mode is mode 9,"},
		{"no mode", func() { was["ComputeMode"] = g.Readings["ComputeMode"]; delete(g.Readings, "ComputeMode") }, "does not tell its compute mode"},
		{"Pascal", set("CudaComputeCapability", 6, 0), "MPS bounds nobody on GPUs before Volta"},
	}
	for _, c := range cases {
		c.change()
		r.write()
		got := reasons(r.round(), g.UUID)
		must.StrContains(t, got, c.reason, must.Sprint(c.name))
		for name, value := range was {
			g.Readings[name] = value
		}
		clear(was)
		r.write()
		must.Eq(t, "", reasons(r.round(), g.UUID), must.Sprint("after ", c.name))
	}

	g.Set("MigMode", 1, 1)
	g.MIG = []nvmlsim.MIG{{UUID: "MIG-a", Profile: "1g.5gb", MemoryMiB: 4864, GI: 7}}
	r.write()
	must.StrContains(t, reasons(r.round(), "MIG-a"), "MIG devices are not shared by MPS: take the GPU out of MIG mode (nvidia-smi -i "+g.UUID+" -mig 0), or set the sharing mode to \"time-sliced\"")
}

// What the operator's group names were with turns they are with MPS, so that Nomad does not take busy GPUs for new ones.
func TestNamesAreThoseOfTurns(t *testing.T) {
	s := nvmlsim.Host("names", nvmlsim.L4(), 2)
	for _, g := range s.GPUs {
		exclusive(g)
	}
	turns := groups(newRig(t, s, func(set *settings) { set.replicas = 4 }).round(), "")
	r, c := newMPSRig(t, s, 4)
	must.NoError(t, c.Start())
	atOnce := groups(r.told(), "")
	must.Eq(t, "NVIDIA L4 shared", atOnce[0].Name)
	must.Eq(t, turns[0].Name, atOnce[0].Name)
	must.Eq(t, turns[0].Devices, atOnce[0].Devices)
	must.Eq(t, "time-slicing", *turns[0].Attributes["sharing_strategy"].String)
	must.Eq(t, "mps", *atOnce[0].Attributes["sharing_strategy"].String)
	delete(turns[0].Attributes, "sharing_strategy")
	delete(atOnce[0].Attributes, "sharing_strategy")
	must.Eq(t, turns[0].Attributes, atOnce[0].Attributes)
}

func TestReserveSharesByMPS(t *testing.T) {
	s := nvmlsim.Host("reserve", nvmlsim.L4(), 2)
	for _, g := range s.GPUs {
		exclusive(g)
	}
	r, c := newMPSRig(t, s, 3)
	must.NoError(t, c.Start())
	now := r.told()
	a, b := s.GPUs[0].UUID, s.GPUs[1].UUID
	got, _, err := now.reserve([]string{a + "::2", b + "::0"})
	must.NoError(t, err)
	must.Eq(t, &device.ContainerReservation{
		Envs: map[string]string{
			envKey(a + "::2"): a, envKey(b + "::0"): b, "NVIDIA_VISIBLE_DEVICES": a + "," + b,
			"CUDA_MPS_PIPE_DIRECTORY": c.Pipe, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "33", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": a + "=7678M," + b + "=7678M",
		},
		Mounts: []*device.Mount{{TaskPath: c.Pipe, HostPath: c.Pipe}},
	}, got)
	_, _, err = now.reserve([]string{a + "::0", a + "::1"})
	must.ErrorContains(t, err, "the task has another share of the same GPU")

	r.monitor.settings.mps.mount = false
	got, _, err = r.round().reserve([]string{a + "::2"})
	must.NoError(t, err)
	must.SliceEmpty(t, got.Mounts)
	must.Eq(t, c.Pipe, got.Envs["CUDA_MPS_PIPE_DIRECTORY"])

	must.NoError(t, c.Kill())
	_, _, err = r.round().reserve([]string{a + "::2"})
	must.ErrorContains(t, err, "it is unhealthy: the MPS control daemon does not run")
}

// A look by "pangaea doctor" tells the daemon nothing.
func TestDoctorTellsTheMPSDaemonNothing(t *testing.T) {
	s := nvmlsim.Host("doctor", nvmlsim.L4(), 1)
	r, c := newMPSRig(t, s, 4)
	r.monitor.shares.lookOnly = true
	must.NoError(t, c.Start())
	must.StrContains(t, reasons(r.round(), s.GPUs[0].UUID), "its compute mode is DEFAULT")
	must.SliceContainsFunc(t, r.monitor.inspect(), "its compute mode is DEFAULT", func(f Finding, text string) bool {
		return f.Verdict == "fail" && strings.Contains(f.Seen, text)
	})
	exclusive(s.GPUs[0])
	r.write()
	must.Eq(t, "", reasons(r.round(), s.GPUs[0].UUID))
	_, err := os.Stat(filepath.Join(c.Pipe, "asked"))
	must.ErrorIs(t, err, os.ErrNotExist)
}
