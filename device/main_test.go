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
	for deadline := time.Now().Add(soon); err != nil && time.Now().Before(deadline); {
		err = goleak.Find(ours) // on a busy machine they end later
	}
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

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// forEver is how long a call hangs that is to hang until its fault is taken out of the state.
const forEver = 3_600_000 // milliseconds

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
	r.monitor.after = r.after
	r.monitor.session.worker, r.monitor.slowEvery, r.monitor.watchFor = startWorker(ctx, r.after), 0, shortWatch
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

// after has the monitor's patience end when nobody is left to wait for but calls that hang: a machine may be busy with
// something else for as long as it likes.
func (r *rig) after(patience time.Duration) <-chan time.Time {
	must.LessEq(r.t, r.monitor.patience, patience)
	workers := []*worker{r.monitor.session.worker}
	hangs := []string{""}
	for i, s := range r.monitor.slots {
		workers, hangs = append(workers, s.worker), append(hangs, "")
		if i >= len(r.state.GPUs) {
			continue
		}
		for _, f := range r.state.GPUs[i].Faults {
			if f.DelayMS > 0 {
				hangs[len(hangs)-1] = f.Call
			}
		}
	}
	settled := func() bool {
		for i, w := range workers {
			call := w.trace.Current()
			if w.busy.Load() > 0 && (call == nil || call.Name != hangs[i]) {
				return false
			}
		}
		return true
	}
	enough := make(chan time.Time, 1)
	go func() {
		for !settled() && r.ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		enough <- time.Now()
	}()
	return enough
}

// round lets the monitor look once, a while after the last time, with limits read anew.
func (r *rig) round() *snapshot {
	r.now = r.now.Add(traitsEvery)
	if now := time.Now().Add(traitsEvery); now.After(r.now) {
		r.now = now // what calls tell of themselves is by the real clock
	}
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
