package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"pangaea/device/control"
	"pangaea/device/health"
	"pangaea/device/holder"
	"pangaea/e2e/nvmlsim"
)

// library is the simulator: a process binds NVML's functions once, to the first library that it loads.
var library string

func TestMain(m *testing.M) {
	if os.Getenv(servePlugin) != "" {
		Serve()
		return
	}
	dir, err := os.MkdirTemp("", "pangaea-device-")
	if err == nil {
		library, err = nvmlsim.Build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ours := goleak.IgnoreCurrent()
	code := m.Run()
	err = goleak.Find(ours)
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a monitor over the simulator, driven round by round by the test.
type rig struct {
	t       *testing.T
	monitor *monitor
	ctx     context.Context
	state   nvmlsim.State
	now     time.Time
	restart string
}

// shortWatch lets tests end soon.
const shortWatch = 500 * time.Millisecond

// lastRig is the one before, perhaps of the same test.
var lastRig *rig

func newRig(t *testing.T, s nvmlsim.State, change ...func(*settings)) *rig {
	t.Helper()
	if lastRig != nil {
		lastRig.monitor.endWatchers() // opening the library while somebody calls it is a race
	}
	ctx, cancel := context.WithCancel(context.Background())
	set := Config{Enabled: true, LibraryPath: library}.understand()
	set.control = control.Dir(t.TempDir())
	set.holders = holder.Dir(t.TempDir())
	set.limits = health.Limits{RecoverAfter: 1}
	for _, c := range change {
		c(&set)
	}
	r := &rig{t: t, ctx: ctx, state: s, now: time.Now()}
	lastRig = r
	r.monitor = newMonitor(set, hclog.NewNullLogger(), func(reason string) { r.restart = reason })
	r.monitor.session.worker, r.monitor.slowEvery, r.monitor.watchFor = startWorker(ctx), 0, shortWatch
	t.Cleanup(func() {
		r.monitor.endWatchers()
		cancel()
		done := make(chan struct{})
		// The library counts openings: leave it as it was found.
		go func() {
			r.monitor.session.shut()
			close(done)
		}()
		<-done
	})
	r.write()
	return r
}

func statePath() string { return filepath.Join(filepath.Dir(library), nvmlsim.StateFile) }

func (r *rig) write() { must.NoError(r.t, nvmlsim.WriteState(statePath(), r.state)) }

// unhurried has the monitor wait for a machine that is busy with something else, where no call hangs.
func (r *rig) unhurried() *rig {
	r.monitor.stagger, r.monitor.patience = time.Minute, time.Minute
	return r
}

// slow has the monitor wait for a busy machine where a call hangs, too: long enough for the others, not for what hangs.
func (r *rig) slow(patience time.Duration) *rig {
	r.monitor.stagger, r.monitor.patience = patience/4, patience
	return r
}

// round lets the monitor look once, a while after the last time, with limits read anew.
func (r *rig) round() *snapshot {
	r.now = r.now.Add(traitsEvery)
	if r.monitor.session.broken {
		r.monitor.endWatchers() // in time for the library to be closed
	}
	r.monitor.round(r.ctx, r.now)
	return r.monitor.published.Load()
}

// health is id to reason, "" for healthy.
func (s *snapshot) health() map[string]string {
	all := make(map[string]string)
	for _, u := range s.units {
		all[u.id] = u.reason
		if u.healthy != (u.reason == "") {
			all[u.id] = fmt.Sprintf("healthy is %t with reason %q", u.healthy, u.reason)
		}
	}
	return all
}

func allWell(s nvmlsim.State) map[string]string {
	all := make(map[string]string)
	for _, g := range s.GPUs {
		all[g.UUID] = ""
	}
	return all
}

// endWatchers stops all watchers and waits for them.
func (m *monitor) endWatchers() {
	m.stopWatchers()
	for _, w := range m.watchers {
		<-w.done
	}
}
