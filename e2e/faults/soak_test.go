//go:build faults

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/driver/record"
	"pangaea/e2e/node"
)

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must.NoError(t, err, must.Sprint(name, " must be a number"))
	return n
}

// workers is how many tasks the soak has at a time.
const workers = 10

// soak is many tasks that start, end, are stopped and lose processes at random moments.
type soak struct {
	seed int
	// starts is held for reading by each task that starts. Nomad repeats a start whose plugin dies once, and gives the
	// job up when it dies again: so the plugin is left alone until all who saw it die have started.
	starts sync.RWMutex
	plugin sync.Mutex
	// placing is held for reading by each task that is new to Nomad's client, which gives an allocation up when the
	// plugin dies just as it takes it on.
	placing sync.RWMutex

	mu    sync.Mutex
	count map[string]int
}

// Whatever dies, each task has its own exit code and never two copies, and nothing is left in the end. The first cycle
// that fails is the last to begin.
func TestRootSoak(t *testing.T) {
	cycles, seed := number(t, "FAULTS_CYCLES", 40), number(t, "FAULTS_SEED", int(time.Now().Unix()))
	t.Logf("%d cycles, FAULTS_SEED=%d", cycles, seed)
	before := known(t)
	s := &soak{seed: seed, count: map[string]int{}}
	turns := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := range turns {
				if !t.Failed() {
					s.cycle(t, n)
				}
			}
		})
	}
	for n := range cycles {
		turns <- n
	}
	close(turns)
	wg.Wait()
	t.Logf("did %v", s.count)
	nothingMore(t, before)
}

// fate is what befalls a task, in its start or when it runs, and the code that it ends with.
type fate struct {
	name  string
	start func()
	then  func()
	code  int
}

// cycle is the life of one task. The dice say what befalls it.
func (s *soak) cycle(t *testing.T, n int) {
	dice := rand.New(rand.NewPCG(uint64(s.seed), uint64(n)))
	code := 10 + dice.IntN(90)
	pause := time.Duration(dice.IntN(250)) * time.Millisecond
	k := kinds()[dice.IntN(len(kinds()))]
	w := newTask(t, fmt.Sprintf("s%d", n), k)
	fates := []fate{
		{"ends", nil, nil, code},
		{"is stopped", nil, nil, codeTerm},
		{"loses its shim", nil, func() { s.killShim(w) }, code},
		{"loses its shim and is stopped", nil, func() { s.killShim(w) }, codeTerm},
		{"is killed", nil, func() { w.write("done", ""); s.kill(w, w.inits()) }, 128 + int(syscall.SIGKILL)},
		{"loses its shim in its start", func() { s.strikeStart(pause, w.shims) }, nil, code},
		{"loses its runtime in its start", func() { s.strikeStart(pause, w.runtimes) }, nil, code},
		{"loses the plugin in its start", func() { s.killPlugin(w, pause) }, nil, code},
		{"loses the plugin", nil, func() { s.killPlugin(w, 0) }, code},
		{"loses the plugin and is stopped", nil, func() { s.killPlugin(w, 0) }, codeTerm},
	}
	f := fates[dice.IntN(len(fates))]
	s.mu.Lock()
	s.count[f.name]++
	s.count[k.name]++
	s.mu.Unlock()
	t.Run(fmt.Sprintf("%d %s %s", n, k.name, f.name), func(t *testing.T) {
		w.t = t
		defer func() {
			if t.Failed() {
				t.Logf("FAULTS_SEED=%d, cycle %d, %s %s; Nomad's client says of it:\n%s", s.seed, n, k.name, f.name, w.log())
			}
		}()
		s.live(w, f)
	})
}

// live has a task meet its fate.
func (s *soak) live(w *task, f fate) {
	var struck sync.WaitGroup
	started := false
	func() {
		s.starts.RLock()
		defer s.starts.RUnlock()
		s.place(w)
		if f.start != nil {
			struck.Go(f.start)
		}
		started = s.await(w, api.TaskStarted, nil)
	}()
	struck.Wait()
	if started {
		lives := w.livesAgain(1)
		w.eventually("it lives", func() bool { return lives() || w.givenUp() })
		if f.then != nil {
			f.then()
		}
		// Its shim may have been struck after the start: nobody may know its code until another has taken over.
		w.eventually("a shim has it", func() bool {
			return slices.ContainsFunc(w.shims(), func(pid int) bool { return !slices.Contains([]string{"", "Z", "X"}, state(pid)) }) || w.givenUp() || w.recordedExit()
		})
		s.endAs(w, f.code, strings.HasSuffix(f.name, "stopped"))
	}
	w.end()
}

// await waits for an event, and says false if Nomad gave the task up before: that is told and counted, and all else is
// still demanded.
func (s *soak) await(w *task, kind string, match func(*api.TaskEvent) bool) bool {
	w.t.Helper()
	happened := false
	_, err := shared.Await(w.t.Context(), w.name, "at an event "+kind, func(a *api.Allocation) bool {
		happened = slices.ContainsFunc(node.Events(a, kind), func(e *api.TaskEvent) bool { return match == nil || match(e) })
		ended := a.ClientStatus == api.AllocClientStatusComplete || a.ClientStatus == api.AllocClientStatusFailed
		return happened || ended && w.givenUp()
	})
	must.NoError(w.t, err, must.Sprint(w.story()))
	if !happened {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.count["given up by Nomad"]++
	}
	return happened
}

// givenUp says whether Nomad's client has lost its hold of the task, as it does when it asks for a new plugin before it
// has noticed itself that the old one is dead: its instanceManager.dispense then hands out the dead one again.
func (w *task) givenUp() bool {
	log := w.log()
	return strings.Contains(log, "driver after it exited unexpectedly") || strings.Contains(log, "after driver exited unexpectedly")
}

func (s *soak) place(w *task) {
	s.placing.RLock()
	defer s.placing.RUnlock()
	w.run()
	_, _, err := shared.AwaitEvent(w.t.Context(), w.name, api.TaskSetup, nil)
	must.NoError(w.t, err)
}

// endAs ends the task, and sees that its code is the one that Nomad reports.
func (s *soak) endAs(w *task, code int, stop bool) {
	w.t.Helper()
	switch {
	case stop:
		_, _, err := shared.API().Jobs().Deregister(w.name, false, (&api.WriteOptions{}).WithContext(w.t.Context()))
		must.NoError(w.t, err)
	case code != 128+int(syscall.SIGKILL):
		w.write("exit", fmt.Sprint(code))
	}
	s.await(w, api.TaskTerminated, func(e *api.TaskEvent) bool { return e.ExitCode == code })
	if w.givenUp() {
		return // another copy, in whose start no stop was waited for, may have ended in a way of its own
	}
	a, _, err := shared.API().Allocations().Info(w.alloc, nil)
	must.NoError(w.t, err)
	for _, event := range a.TaskStates[w.name].Events {
		if event.Type == api.TaskTerminated {
			must.SliceContains(w.t, []int{code, codeDone}, event.ExitCode, must.Sprint(w.story()))
		}
	}
}

// strikeStart kills one of the processes that start the task, if there is one by then.
func (s *soak) strikeStart(pause time.Duration, find func() []int) {
	time.Sleep(pause) // a moment like any other
	pids := find()
	if len(pids) > 0 {
		_ = syscall.Kill(pids[0], syscall.SIGKILL)
	}
}

func (s *soak) kill(w *task, pids []int) {
	must.True(w.t, len(pids) > 0 || w.givenUp(), must.Sprint(w.story()))
	signalAll(w, pids, syscall.SIGKILL)
}

// killShim kills the task's shim and waits until another has taken over: when the plugin, the shim and the task end at
// once, nobody is left who could know the task's code.
func (s *soak) killShim(w *task) {
	old := w.shims()
	s.kill(w, old)
	w.eventually("another shim has it", func() bool {
		now := w.shims()
		return len(now) == 1 && !slices.Contains(old, now[0]) && state(now[0]) != "" || w.givenUp()
	})
}

// killPlugin kills the driver's plugin and lets all who start see to it that they do.
func (s *soak) killPlugin(w *task, pause time.Duration) {
	s.plugin.Lock()
	defer s.plugin.Unlock()
	time.Sleep(pause) // a moment like any other
	func() {
		s.placing.Lock()
		defer s.placing.Unlock()
		old, err := shared.Plugin("pangaea-driver")
		must.NoError(w.t, err)
		signalAll(w, old, syscall.SIGKILL)
		w.eventually("there is another plugin", func() bool {
			now, err := shared.Plugin("pangaea-driver")
			return err == nil && len(now) > 0 && !slices.Equal(now, old)
		})
	}()
	s.starts.Lock()
	s.starts.Unlock() //nolint:staticcheck // nobody is starting now
}

// inits finds the task's first process.
func (w *task) inits() []int {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(shared.StateDir(), "tasks", w.alloc[:8]+"-*", record.StateFile))
	must.NoError(w.t, err)
	var pids []int
	for _, path := range paths {
		state, err := record.ReadState(filepath.Dir(path))
		must.NoError(w.t, err)
		pids = append(pids, state.Pid)
	}
	return pids
}

// runtimes finds the runtime that is creating the task: a child of its shim that is not its init.
func (w *task) runtimes() []int {
	var pids []int
	for _, shim := range w.shims() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shim, shim))
		for _, field := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + field + "/comm")
			pid, err := strconv.Atoi(field)
			if err == nil && slices.Contains([]string{"pangaea-runtime", "runsc"}, strings.TrimSpace(string(name))) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
