package device

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
	"pangaea/device/owner"
	"pangaea/e2e/nvmlsim"
)

func TestWhatTenantsLeave(t *testing.T) {
	mem := func(used, reserved int64) nvml.Memory {
		m := nvml.Memory{Total: nvml.Of[uint64](16384 * mib), Used: nvml.Of(uint64(used) * mib)}
		if reserved >= 0 {
			m.Reserved = nvml.Of(uint64(reserved) * mib)
		}
		return m
	}
	task := owner.User{PID: 7, Name: "python", Alloc: someAlloc, Task: "train", OfNomad: true}
	cases := []struct {
		name   string
		before nvml.Reading[uint64]
		users  []owner.User
		hidden int
		memory nvml.Memory
		what   string
		left   bool
	}{
		{"nothing known", nvml.Reading[uint64]{}, nil, 0, nvml.Memory{}, "", false},
		{"first seen, idle", nvml.Reading[uint64]{}, nil, 0, mem(4, 600), "", false},
		{"first seen, full", nvml.Reading[uint64]{}, nil, 0, mem(9000, 600), "memory is in use by no process, over 512 MiB", true},
		{"first seen, old driver that counts its own", nvml.Reading[uint64]{}, nil, 0, mem(1024, -1), "", false},
		{"first seen, old driver, full", nvml.Reading[uint64]{}, nil, 0, mem(1025, -1), "memory is in use by no process, over 1024 MiB", true},
		{"back to the baseline", nvml.Of[uint64](100 * mib), nil, 0, mem(356, 600), "", false},
		{"not back", nvml.Of[uint64](100 * mib), nil, 0, mem(357, 600), "memory is in use by no process, over 356 MiB", true},
		{"an answer of another kind", nvml.Of[uint64](0), nil, 0, mem(9000, -1), "", false},
		{"a task at work", nvml.Of[uint64](0), []owner.User{task}, 0, mem(9000, 600), "process python (7) of allocation " + someAlloc + " is on it", false},
		{"a task in a cgroup of its driver's", nvml.Of[uint64](0), []owner.User{{PID: 8, Name: "x", OfNomad: true}}, 0, mem(9000, 600), "process x (8) of a task is on it", false},
		{"a task that does not end", nvml.Of[uint64](0), []owner.User{{PID: 9, Name: "x", Ends: true}}, 0, mem(0, 600), "process x (9) of its last task has not ended", true},
		{"the desktop", nvml.Of[uint64](0), []owner.User{{PID: 9, Name: "Xorg"}}, 0, mem(900, 600), "", false},
		{"the desktop, and what is left", nvml.Of[uint64](0), []owner.User{{PID: 9, Name: "Xorg"}, {PID: 8, Name: "x", Ends: true}}, 0, mem(900, 600), "process x (8) of its last task has not ended", false},
		{"somebody unseen", nvml.Of[uint64](0), nil, 1, mem(900, 600), "a process is on it that this host does not show", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := residue{baseline: c.before, apart: true}
			what, left := r.look(c.users, c.hidden, c.memory)
			must.Eq(t, c.what, what)
			must.Eq(t, c.left, left)
		})
	}
}

// used is the memory in use of an L4.
func used(g *nvmlsim.GPU, n int) {
	g.Set("MemoryInfo", 23034*mib, (23034-600-n)*mib, (600+n)*mib)
}

// A GPU whose last task left memory in use is quarantined once that lasts, and offered again once it is clean.
func TestUncleanGPUIsQuarantined(t *testing.T) {
	s := nvmlsim.Host("unclean", nvmlsim.L4(), 2)
	s.GPUs[1].Set("MigMode", 1, 1)
	s.GPUs[1].Set("MaxMigDeviceCount", 7)
	s.GPUs[1].MIG = []nvmlsim.MIG{{UUID: "MIG-a", Profile: "1g", MemoryMiB: 9000, GI: 1}, {UUID: "MIG-b", Profile: "1g", MemoryMiB: 9000, GI: 2}}
	r := newRig(t, s, func(set *settings) { set.limits.RecoverAfter = 2 })
	well := map[string]string{s.GPUs[0].UUID: "", "MIG-a": "", "MIG-b": ""}
	must.Eq(t, well, r.round().health())
	used(s.GPUs[0], 5000)
	r.write()
	must.Eq(t, well, r.round().health(), must.Sprint("a task's end takes a moment"))
	const dirt = "not clean after its last task: memory is in use by no process, over 256 MiB"
	for range 4 {
		must.Eq(t, map[string]string{s.GPUs[0].UUID: dirt, "MIG-a": "", "MIG-b": ""}, r.round().health())
	}
	used(s.GPUs[0], 100)
	r.write()
	must.Eq(t, "recovering from: "+dirt, r.round().health()[s.GPUs[0].UUID])
	must.Eq(t, well, r.round().health())
}

// What an owner allows is not looked at, and tenants who share a GPU are on it by right.
func TestResidueThatIsAllowed(t *testing.T) {
	for name, change := range map[string]func(*settings){
		"allowed": func(s *settings) { s.allowResidue = true },
		"shared":  func(s *settings) { s.replicas = 2 },
	} {
		s := nvmlsim.Host("allowed", nvmlsim.L4(), 1)
		s.GPUs[0].Processes = []nvmlsim.Process{{Kind: "compute", PID: 71}}
		r := newRig(t, s, change)
		r.monitor.host.Proc = t.TempDir()
		process(t, r.monitor.host.Proc, 71, "python", taskCgroup)
		r.round()
		for _, u := range r.round().units {
			must.Eq(t, "", u.left, must.Sprint(name))
			must.True(t, u.healthy, must.Sprint(name))
		}
	}
}

// A plugin that was just started again, perhaps between the placement of a task and its start, does not know its GPUs yet.
func TestReserveWaitsForTheFirstLook(t *testing.T) {
	const id = "GPU-00000000-0000-0000-0000-000000000001"
	_, wait, err := (&snapshot{}).reserve([]string{id})
	must.Eq(t, id, wait)
	must.ErrorContains(t, err, "NVML has told of no GPU")
	_, wait, err = (&snapshot{problem: "NVIDIA driver not loaded"}).reserve([]string{id})
	must.Eq(t, "", wait)
	must.ErrorContains(t, err, "NVIDIA driver not loaded")
	_, wait, err = (&snapshot{units: []unit{{id: "GPU-other", healthy: true}}}).reserve([]string{id})
	must.Eq(t, "", wait)
	must.ErrorContains(t, err, "no such GPU here")
}

// A reservation waits until the last task's process is gone from the GPU; many at once do, each for its own.
func TestReserveWaitsForCleanGPUs(t *testing.T) {
	s := nvmlsim.Host("waits", nvmlsim.L4(), 4)
	proc := t.TempDir()
	for i, g := range s.GPUs {
		g.Processes = []nvmlsim.Process{{Kind: "compute", PID: 70 + i}}
		process(t, proc, 70+i, "python", taskCgroup)
	}
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	ctx, cancel := context.WithCancel(t.Context())
	p := New(ctx, hclog.NewNullLogger())
	p.settings = Config{Enabled: true, LibraryPath: library, RecoverAfter: 1, ControlDir: t.TempDir(), FingerprintPeriod: "1h"}.understand()
	p.monitor = newMonitor(p.settings, p.log, p.restart)
	p.monitor.host.Proc = proc
	p.monitor.watchFor, p.monitor.stagger, p.monitor.patience = shortWatch, soon, soon
	p.cleanWithin = soon
	ended := make(chan struct{})
	go func() { p.monitor.run(ctx); close(ended) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		p.monitor.endWatchers()
		p.monitor.session.shut()
	})
	first := p.monitor.published.Load()
	for len(first.units) < len(s.GPUs) {
		<-first.changed
		first = p.monitor.published.Load()
	}
	var waiting sync.WaitGroup
	granted := make([]error, 3)
	for i, g := range s.GPUs[:3] {
		waiting.Go(func() { _, granted[i] = p.Reserve([]string{g.UUID}) })
	}
	time.Sleep(200 * time.Millisecond) // not for the outcome: it lets the reservations find the GPUs unclean first
	for i, g := range s.GPUs[:3] {
		g.Processes = nil
		must.NoError(t, os.RemoveAll(fmt.Sprintf("%s/%d", proc, 70+i)))
	}
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	waiting.Wait()
	for i := range 3 {
		must.NoError(t, granted[i])
	}
	p.cleanWithin = 0
	_, err := p.Reserve([]string{s.GPUs[3].UUID})
	must.ErrorContains(t, err, "it is not clean after its last task: process python (73) of allocation "+someAlloc+" is on it")
}
