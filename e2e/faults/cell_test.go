//go:build faults

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/driver/failpoint"
)

// Phases of a task's life.
const (
	before   = "before create"
	creating = "mid-create"
	created  = "created, not started"
	running  = "running"
	stopping = "stopping"
	exited   = "exited unseen"
)

// Victims.
const (
	plugin  = "plugin"
	shim    = "shim"
	runtime = "runtime"
	logmon  = "logmon"
	client  = "client"
	server  = "server"
	machine = "machine"
)

// Actions.
const (
	kill = "kill -9"
	stop = "stop"
)

// Codes that tasks end with.
const (
	codeExit = 7 // when told to
	codeStop = 9 // when stopped, and told to only then
	codeTerm = 3 // when stopped
	codeDone = 0 // when started again after that
)

// cell is one fault that befalls one task in one phase of its life.
type cell struct {
	phase, victim, action string

	*task
	point *failpoint.Point
	held  int  // the process that the failpoint holds
	told  bool // how to end

	stopped time.Duration // how long its victim was, at the most
}

func (c *cell) String() string {
	return fmt.Sprintf("%s, %s, %s (%s)", c.phase, c.victim, c.action, c.name)
}

// serial makes tasks' names, which are letters and digits only.
var serial atomic.Int64

// cells is a victim in some phases under one action.
func cells(t *testing.T, victim, action string, phases ...string) []*cell {
	var all []*cell
	for _, phase := range phases {
		all = append(all, &cell{phase: phase, victim: victim, action: action, task: newTask(t, fmt.Sprintf("c%d", serial.Add(1)), usual)})
	}
	return all
}

func every() []string { return []string{before, creating, created, running, stopping, exited} }

// place is the failpoint that holds the task in its phase; "" where the task itself can stay in it.
func (c *cell) place() string {
	switch {
	case c.phase == before && c.victim == runtime:
		return "runtime-create"
	case c.phase == before:
		return "shim-launch"
	case c.phase == creating:
		return "runtime-created"
	case c.phase == created && c.victim == runtime:
		return "runtime-start"
	case c.phase == created:
		return "shim-created"
	case c.phase == exited && !c.unseenByDeath():
		return "shim-ended"
	}
	return ""
}

// unseenByDeath says that the task ends while the victim can't see it, and not at a failpoint.
func (c *cell) unseenByDeath() bool {
	return c.victim == client || c.victim == machine && c.action == kill
}

// enter brings the task into its phase.
func (c *cell) enter() {
	c.t.Helper()
	ctx, cancel := patiently(c.t)
	defer cancel()
	var err error
	if c.place() != "" && c.phase != exited {
		c.arm()
	}
	c.run()
	switch c.phase {
	case before, creating, created:
		c.held, err = c.point.Wait(ctx)
		must.NoError(c.t, err, must.Sprint(c, "\n", c.story()))
	case running:
		c.awaitStarted()
	case stopping:
		c.awaitStarted()
		c.write("hold", "")
		_, _, err = shared.API().Jobs().Deregister(c.name, false, (&api.WriteOptions{}).WithContext(ctx))
		must.NoError(c.t, err)
		c.eventually("it is terminating", func() bool { return c.has("terminating") })
	case exited:
		c.awaitStarted()
		if c.place() != "" {
			c.arm()
			c.tell(codeExit)
			c.held, err = c.point.Wait(ctx)
			must.NoError(c.t, err, must.Sprint(c, "\n", c.story()))
		}
	}
}

func (c *cell) arm() {
	c.t.Helper()
	var err error
	c.point, err = failpoint.Arm(shared.StateDir(), c.name, c.place())
	must.NoError(c.t, err)
}

// tell has the task end with a code.
func (c *cell) tell(code int) {
	c.t.Helper()
	c.write("exit", fmt.Sprint(code))
	c.told = true
}

// release lets go of the process that the failpoint holds.
func (c *cell) release() {
	if c.point != nil {
		must.NoError(c.t, c.point.Release())
	}
}

// targets are the pids of the victim's processes.
func (c *cell) targets() []int {
	c.t.Helper()
	var pids []int
	var err error
	switch c.victim {
	case plugin:
		pids, err = shared.Plugin("pangaea-driver")
	case shim:
		pids = c.shims()
	case runtime:
		pids = []int{c.held}
	case logmon:
		pids = c.logmons()
	default:
		c.t.Fatal("not a victim with pids of its own: ", c.victim)
	}
	must.NoError(c.t, err)
	must.SliceNotEmpty(c.t, pids, must.Sprint(c, " has no victim"))
	return pids
}

// logmons finds the log collector that has the allocation's FIFOs open.
func (c *cell) logmons() []int {
	c.t.Helper()
	all, err := shared.Logmons()
	must.NoError(c.t, err)
	return slices.DeleteFunc(all, func(pid int) bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		return !slices.ContainsFunc(links, func(link string) bool {
			target, err := os.Readlink(link)
			return err == nil && strings.Contains(target, c.alloc)
		})
	})
}

// state is a process's state as the kernel shows it, "" if there is no such process.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
	return strings.Fields(rest)[0]
}

// signalAll sends a signal to processes and waits until it has done its work.
func signalAll(w *task, pids []int, sig syscall.Signal) {
	w.t.Helper()
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // one that has gone is as good as killed
	}
	for _, pid := range pids {
		w.eventually(fmt.Sprintf("%s has reached process %d", sig, pid), func() bool {
			now := state(pid)
			gone := now == "" || now == "Z" || now == "X"
			return gone || sig == syscall.SIGSTOP && now == "T" || sig == syscall.SIGCONT && now != "T"
		})
	}
}

// finish ends the task and holds Pangaea to its word.
func (c *cell) finish() {
	c.t.Helper()
	switch c.phase {
	case before, creating, created:
		c.awaitStarted()
		c.tell(codeExit)
		c.awaitExit(codeExit)
	case running:
		if c.victim == machine && c.action == kill {
			c.awaitLife(2)
		} else {
			c.awaitLife(1)
			must.Len(c.t, 1, c.lives(), must.Sprint(c, " was started again\n", c.story()))
		}
		c.tell(codeExit)
		c.awaitExit(codeExit)
	case stopping:
		c.finishStopping()
	case exited:
		c.awaitExit(codeExit)
	}
	c.codesAreExact()
	if c.logsSurvive() {
		c.logIsWhole(1)
	}
	c.end()
}

func (c *cell) finishStopping() {
	c.t.Helper()
	if c.victim != machine || c.action != kill {
		if !c.told {
			c.tell(codeStop)
		}
		c.awaitExit(codeStop)
	}
	_, err := shared.Await(c.t.Context(), c.name, "at its end", func(a *api.Allocation) bool {
		return a.ClientStatus == api.AllocClientStatusComplete || a.ClientStatus == api.AllocClientStatusFailed
	})
	must.NoError(c.t, err, must.Sprint(c))
	must.Len(c.t, 1, c.lives(), must.Sprint(c, " was started again\n", c.story()))
}

// codesAreExact fails the test if Nomad was ever told another code than the task's own. Only a machine that dies takes
// what knew the code along, and then Nomad is told just that.
func (c *cell) codesAreExact() {
	c.t.Helper()
	a, _, err := shared.API().Allocations().Info(c.alloc, nil)
	must.NoError(c.t, err)
	for _, s := range a.TaskStates {
		for _, e := range s.Events {
			honest := c.victim == machine && c.action == kill && strings.Contains(e.DisplayMessage, "could not be learned")
			if e.Type == api.TaskTerminated && !honest {
				must.SliceContains(c.t, []int{codeExit, codeStop, codeDone}, e.ExitCode, must.Sprint(c, "\n", c.story()))
			}
		}
	}
}

// logsSurvive says whether all that the task printed must be in its log. A log collector that is killed is started again
// by Nomad only with the task or with the client, one that is stopped for longer must not hold up the task, which then
// loses lines, and a machine takes what is in its pipes along.
func (c *cell) logsSurvive() bool {
	if c.action == kill {
		return c.victim != logmon && c.victim != machine
	}
	return c.victim != logmon || c.stopped <= 2*time.Second
}
