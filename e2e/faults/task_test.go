//go:build faults

package faults

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

const jobspec = `
job "NAME" {
  type = "batch"
  group "g" {
    restart {
      attempts = 20
      interval = "1h"
      delay    = "0s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "NAME" {
      driver       = "runc"
      kill_timeout = "30m"
      config {
        image   = "IMAGES/witness:1"
        args    = ["/shared", "CLOCK"]
        volumes = ["SHARED:/shared"]
        CONFIG
      }
      resources {
        cpu = 10
        RESOURCES
      }
    }
  }
}
`

// kind is what a task asks of the driver.
type kind struct{ name, config, resources, clock string }

var (
	// alone has nothing but a GPU.
	alone = kind{"alone", `network_mode = "none"`, "memory = 32\ndevice \"nvidia/gpu\" {}", "boottime"}
	// usual has what a job gets that asks for nothing else, a network of the driver's, and a disk of its own.
	usual = kind{"usual", `disk_limit = "8MiB"`, "memory = 32\ndevice \"nvidia/gpu\" {}", "boottime"}
	// gvisor has a kernel of its own, whose clock since boot is its own too. It takes no simulated GPU.
	gvisor = kind{"gvisor", `runtime = "runsc"`, "memory = 192", "realtime"}
)

func kinds() []kind { return []kind{alone, usual, gvisor} }

// task is a job of one witness (e2e/images/witness), and the directory that its copies share.
type task struct {
	kind

	t     *testing.T
	name  string
	dir   string
	alloc string
}

func newTask(t *testing.T, name string, k kind) *task {
	t.Helper()
	w := &task{kind: k, t: t, name: name, dir: filepath.Join(shared.Dir, "shared", name)}
	must.NoError(t, os.MkdirAll(w.dir, 0o755))
	return w
}

// run registers the job and waits until it has an allocation.
func (w *task) run() {
	w.t.Helper()
	words := strings.NewReplacer("NAME", w.name, "SHARED", w.dir, "CONFIG", w.config, "RESOURCES", w.resources, "CLOCK", w.clock)
	_, err := shared.Run(w.t.Context(), words.Replace(jobspec))
	must.NoError(w.t, err)
	a, err := shared.Await(w.t.Context(), w.name, "placed", func(*api.Allocation) bool { return true })
	must.NoError(w.t, err)
	w.alloc = a.ID
}

// write gives the witness an order.
func (w *task) write(name, text string) {
	w.t.Helper()
	temp := filepath.Join(w.dir, name+".new")
	must.NoError(w.t, os.WriteFile(temp, []byte(text), 0o644))
	must.NoError(w.t, os.Rename(temp, filepath.Join(w.dir, name)))
}

// life is one copy's: when it started, and until when it lived, in nanoseconds by the clock that its kind's copies share.
type life struct{ start, end int64 }

func (w *task) lives() []life {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.dir, "life.*"))
	must.NoError(w.t, err)
	var lives []life
	for _, path := range paths {
		start, err := strconv.ParseInt(strings.TrimPrefix(filepath.Base(path), "life."), 10, 64)
		must.NoError(w.t, err)
		text, err := os.ReadFile(path)
		must.NoError(w.t, err)
		l := life{start: start, end: start}
		beats := bytes.Fields(text[:bytes.LastIndexByte(text, '\n')+1])
		if len(beats) > 0 {
			l.end, err = strconv.ParseInt(string(beats[len(beats)-1]), 10, 64)
			must.NoError(w.t, err)
		}
		lives = append(lives, l)
	}
	slices.SortFunc(lives, func(a, b life) int { return cmp.Compare(a.start, b.start) })
	return lives
}

// awaitLife waits until there have been as many copies, and the last one has shown a sign of life since now.
func (w *task) awaitLife(copies int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("copy %d lives", copies), w.livesAgain(copies))
}

// livesAgain makes what says whether there have been as many copies, the last of them with a sign of life since now.
func (w *task) livesAgain(copies int) func() bool {
	w.t.Helper()
	var before int64
	if all := w.lives(); len(all) >= copies {
		before = all[len(all)-1].end
	}
	return func() bool {
		all := w.lives()
		return len(all) >= copies && all[len(all)-1].end > before
	}
}

// awaitStarted waits until a copy that Nomad knows of lives: one that it does not know may live before, and is ended.
func (w *task) awaitStarted() {
	w.t.Helper()
	_, _, err := shared.AwaitEvent(w.t.Context(), w.name, api.TaskStarted, nil)
	must.NoError(w.t, err, must.Sprint(w.story()))
	w.awaitLife(1)
}

func (w *task) eventually(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	w.t.Fatalf("task %s: waited in vain until %s\n%s", w.name, what, w.story())
}

func (w *task) has(name string) bool {
	_, err := os.Stat(filepath.Join(w.dir, name))
	return err == nil
}

// story is what Nomad tells of the task.
func (w *task) story() string {
	a, _, err := shared.API().Allocations().Info(w.alloc, nil)
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	fmt.Fprintln(&text, "allocation", a.ID, "is", a.ClientStatus)
	for _, event := range events(a) {
		fmt.Fprintln(&text, "  ", event)
	}
	return text.String()
}

// log is what the client's log says of the task.
func (w *task) log() string {
	said, err := clientSaid.of(w.alloc)
	if err != nil {
		return err.Error()
	}
	return said
}

func events(a *api.Allocation) []string {
	var all []string
	for _, state := range a.TaskStates {
		for _, e := range state.Events {
			all = append(all, fmt.Sprint(e.Type, " ", e.ExitCode, " ", e.DisplayMessage))
		}
	}
	return all
}

// awaitExit waits until Nomad reports that the task has ended with a code.
func (w *task) awaitExit(code int) {
	w.t.Helper()
	_, event, err := shared.AwaitEvent(w.t.Context(), w.name, api.TaskTerminated, func(e *api.TaskEvent) bool { return e.ExitCode == code })
	must.NoError(w.t, err, must.Sprint(w.story()))
	must.Eq(w.t, code, event.ExitCode)
}

// recordedExit says whether the task's end is on disk already.
func (w *task) recordedExit() bool {
	paths, err := filepath.Glob(filepath.Join(shared.StateDir(), "tasks", w.alloc[:8]+"-*", "exit"))
	must.NoError(w.t, err)
	return len(paths) > 0
}

// neverTwo fails the test if two copies were ever alive at the same instant.
func (w *task) neverTwo() {
	w.t.Helper()
	violations, err := os.ReadFile(filepath.Join(w.dir, "violations"))
	if !errors.Is(err, os.ErrNotExist) {
		must.NoError(w.t, err)
	}
	must.Eq(w.t, "", string(violations))
	all := w.lives()
	for i := 1; i < len(all); i++ {
		must.Greater(w.t, all[i-1].end, all[i].start, must.Sprint("two copies lived at once"))
	}
}

// logIsWhole waits until the log has all lines of the copies that said that they print their last, and fails if any
// copy's line is missing, doubled or in the wrong place.
func (w *task) logIsWhole(last int) {
	w.t.Helper()
	var wrong string
	deadline := time.Now().Add(patience)
	for {
		var ended int
		ended, wrong = judge(shared.Logs(w.alloc, w.name, "stdout"))
		if ended >= last && wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("task %s: %d copies have printed their last line, wanted %d; %s\n%s", w.name, ended, last, wrong, w.story())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// judge counts the copies whose last line is in a log, and says what is wrong with it.
func judge(log string) (ended int, wrong string) {
	next := map[string]int{}
	last := ""
	for line := range strings.Lines(log) {
		if !strings.HasSuffix(line, "\n") {
			break // more is to come
		}
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != strconv.Itoa(next[fields[0]]+1) {
			return ended, fmt.Sprintf("after line %q comes %q", last, line)
		}
		last = line
		next[fields[0]]++
		if len(fields) == 3 {
			ended++
		}
	}
	return ended, ""
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		log   string
		ended int
		wrong bool
	}{
		{"", 0, false},
		{"5 1\n5 2\n5 3 last\n", 1, false},
		{"5 1\n5 2 last\n9 1\n9 2", 1, false},
		{"5 1\n5 3\n", 0, true},
		{"5 1\n5 1\n", 0, true},
		{"5 1\n\n", 0, true},
		{"5 2\n", 0, true},
	} {
		ended, wrong := judge(c.log)
		must.Eq(t, c.ended, ended, must.Sprint(c.log))
		must.Eq(t, c.wrong, wrong != "", must.Sprint(c.log, wrong))
	}
}

// end stops the job and sees that nothing is left of it.
func (w *task) end() {
	w.t.Helper()
	must.NoError(w.t, shared.Stop(w.t.Context(), w.name))
	must.NoError(w.t, shared.AwaitClean(w.alloc))
	w.neverTwo()
}

// shims finds the task's shim, also one that has not written its state yet: its lock says whose it is.
func (w *task) shims() []int {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(shared.StateDir(), "tasks", w.alloc[:8]+"-*", "shim.lock"))
	must.NoError(w.t, err)
	var pids []int
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		var pid int
		_, err = fmt.Sscan(string(text), &pid)
		if err == nil { // or it has just gone, or come
			pids = append(pids, pid)
		}
	}
	return pids
}
