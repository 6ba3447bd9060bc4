//go:build faults

package faults

import (
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/node"
)

// What belongs to one task is killed and stopped in all tasks at once.
func TestRootFaultsOfTasks(t *testing.T) {
	var all []*cell
	for _, action := range []string{kill, stop} {
		all = slices.Concat(all,
			cells(t, shim, action, every()...),
			// Our runtime is there only while a task is created; what another one's delete does is a unit test.
			cells(t, runtime, action, before, creating, created),
			cells(t, logmon, action, every()...))
	}
	before := known(t)
	enter(all)
	strike(t, all, nil)
	finish(all)
	nothingMore(t, before)
}

func TestRootFaultsOfPlugin(t *testing.T) { ofAll(t, plugin) }
func TestRootFaultsOfClient(t *testing.T) { ofAll(t, client) }
func TestRootFaultsOfServer(t *testing.T) { ofAll(t, server) }

// The machine stops with all that is on it, and comes back: with everything as it was, or with nothing but its disk.
func TestRootFaultsOfMachine(t *testing.T) { ofAll(t, machine) }

// ofAll kills, and then stops, what all tasks have in common, with a task in each phase.
func ofAll(t *testing.T, victim string) {
	for _, action := range []string{kill, stop} {
		t.Run(action, func(t *testing.T) {
			before := known(t)
			all := cells(t, victim, action, every()...)
			enter(all)
			strike(t, all[:1], all)
			finish(all)
			nothingMore(t, before)
		})
	}
}

// together does a step of all cells at once, and ends the test if one fails.
func together(all []*cell, step func(*cell)) {
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() { step(c) })
	}
	wg.Wait()
	if all[0].t.Failed() {
		all[0].t.FailNow()
	}
}

func enter(all []*cell)  { together(all, (*cell).enter) }
func finish(all []*cell) { together(all, (*cell).finish) }

// strike does what is to be done to the cells' victims, and lets the tasks go on. A victim that all have in common is
// struck once; others says whose tasks go on with it.
func strike(t *testing.T, victims, others []*cell) {
	t.Helper()
	var killed, stopped []*cell
	resume := map[*cell][]int{}
	began := time.Now()
	for _, c := range victims {
		if c.action == kill {
			killed = append(killed, c)
			c.kill(others)
			continue
		}
		stopped = append(stopped, c)
		resume[c] = c.halt()
	}
	goOn := others
	if goOn == nil {
		goOn = slices.Concat(killed, stopped)
	}
	together(goOn, (*cell).goOn)
	if len(stopped) > 0 {
		time.Sleep(stopTime(t)) // the length of the stop, not a wait for anything
	}
	for _, c := range stopped {
		signalAll(c.task, resume[c], syscall.SIGCONT)
		c.stopped = time.Since(began)
	}
	for _, c := range killed {
		c.revive(t)
	}
}

// goOn has the task end its phase while the victim is dead or stopped.
func (c *cell) goOn() {
	c.release()
	switch {
	case c.phase == exited && c.place() == "" && !c.recordedExit():
		c.tell(codeExit)
		c.eventually("its end is recorded", c.recordedExit)
	case c.phase == stopping && c.action == stop && c.victim != machine:
		c.tell(codeStop)
	}
}

// kill kills the victim. A machine's client is stopped first, so that it does not see what ends before all die.
func (c *cell) kill(others []*cell) {
	c.t.Helper()
	switch c.victim {
	case client:
		must.NoError(c.t, shared.KillClient())
		c.eventually("the device plugin, which no other client takes up, has ended", func() bool {
			left, err := shared.Plugin("pangaea-device")
			return err == nil && len(left) == 0
		})
	case server:
		must.NoError(c.t, shared.KillServer())
	case machine:
		must.NoError(c.t, shared.SignalClient(syscall.SIGSTOP))
		for _, other := range others {
			if other.phase == exited {
				other.goOn()
			}
		}
		must.NoError(c.t, shared.KillAll())
	default:
		signalAll(c.task, c.targets(), syscall.SIGKILL)
	}
}

// revive starts again what nobody else does.
func (c *cell) revive(t *testing.T) {
	t.Helper()
	began := time.Now()
	switch c.victim {
	case machine, server:
		must.NoError(t, shared.StartServer(t.Context()))
	}
	switch c.victim {
	case machine, client:
		must.NoError(t, shared.StartClient(t.Context()))
		t.Logf("the %s is back after %s", c.victim, time.Since(began).Round(time.Millisecond))
	}
}

// halt stops the victim and returns whom to wake.
func (c *cell) halt() []int {
	c.t.Helper()
	var pids []int
	var err error
	switch c.victim {
	case client:
		pids = []int{shared.ClientPID()}
	case server:
		pids = []int{shared.ServerPID()}
	case machine:
		pids, err = shared.Find(func(node.Process) bool { return true })
		must.NoError(c.t, err)
	default:
		pids = c.targets()
	}
	signalAll(c.task, pids, syscall.SIGSTOP)
	return pids
}
