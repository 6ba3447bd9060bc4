package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

// A shim that is stopped, and stays so, keeps nobody from stopping its task, nor the task's exit code from being known.
func TestRootStuckShim(t *testing.T) {
	b := newBench(t)
	t.Run("that runs a task", func(t *testing.T) {
		b := b.on(t)
		l, out := b.untilTold(4)
		task := b.start(l)
		out.up(t)
		must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGSTOP))
		must.NoError(t, task.Signal(unix.SIGTERM))
		eventually(t, "the task has ended", func() bool { return !record.Alive(task.Pid(), b.state(l).StartTime) })
		must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, time.Second))
		got := b.wait(task)
		b.witnessed(4, Exit{Code: got.Code, Unknown: got.Unknown, At: got.At})
	})
	t.Run("in the middle of a start that nobody waits for", func(t *testing.T) {
		ownOnly(t, "a script of ours stands in for the runtime")
		b := b.on(t)
		l := b.launch("/bin/sleep", "1000")
		script := filepath.Join(b.root, "slow")
		must.NoError(t, os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *create*) kill -STOP $PPID; esac\nexec %s \"$@\"\n", built.runtime)), 0o700))
		b.sup.conf.RuntimePath = script
		cmd, _ := b.startElsewhere(l)
		eventually(t, "the shim is stopped", func() bool {
			for _, pid := range processesOf(l.Dir) {
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				if strings.Contains(string(status), "\nState:\tT") {
					return true
				}
			}
			return false
		})
		must.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		_, err := b.sup.Recover(l.Dir)
		must.ErrorIs(t, err, ErrGone)
		eventually(t, "the start has no process left", func() bool { return len(processesOf(l.Dir)) == 0 })
	})
}

// An OCI runtime that dies or hangs while it deletes a container keeps nobody from removing the rest.
func TestRootRuntimeFailsInDelete(t *testing.T) {
	for name, fault := range map[string]string{"killed": "kill -9 $$", "stopped": "kill -STOP $$"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			script := filepath.Join(b.root, "runtime")
			must.NoError(t, os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *delete*) %s; esac\nexec %s \"$@\"\n", fault, built.runtime)), 0o700))
			b.sup.conf.RuntimePath, b.sup.conf.RuntimeKind = script, KindOCI
			l := b.launch("/bin/sh", "-c", "exit 6")
			must.Eq(t, 6, b.run(l).Code)
		})
	}
}

// The init may be killed between its creation and the program: that is its end, and not a program that can't run.
func TestRootInitKilledBeforeProgram(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sleep", "1000")
	l.Lease = Lease{File: filepath.Join(b.root, "lease"), TTL: time.Hour}
	task := b.start(l)
	must.NoError(t, unix.Kill(b.state(l).Pid, unix.SIGKILL))
	exit := b.wait(task)
	must.Eq(t, "", exit.Error)
	must.Eq(t, 137, exit.Code)
}

// Nomad's log collector reads no more once it has seen the end of the FIFO. It does not see one when a shim is killed,
// before or after the task's end.
func TestRootLogHasNoEndBetweenShims(t *testing.T) {
	if gvisor() {
		t.Skip("the task waits for a file of the host's, which gVisor does not look for twice; the shim is the same")
	}
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "echo one; while [ ! -e /tmp/on ]; do sleep 0.02; done; echo two; echo three >&2")
	out := b.newFIFO("once")
	l.Stdout = out.path
	reader, err := os.OpenFile(out.path, os.O_RDWR, 0)
	must.NoError(t, err)
	task := b.start(l)
	collected := make(chan string)
	collector, err := os.Open(out.path)
	must.NoError(t, err)
	must.NoError(t, reader.Close())
	go func() {
		text, _ := io.ReadAll(collector)
		collected <- string(text)
	}()
	first := b.state(l).ShimPid
	must.NoError(t, unix.Kill(first, unix.SIGKILL))
	eventually(t, "there is another shim", func() bool { return b.state(l).ShimPid != first })
	must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGSTOP))
	must.NoError(t, os.WriteFile(filepath.Join(b.rootfs, "tmp/on"), nil, 0o644))
	eventually(t, "the task has ended", func() bool { return !record.Alive(task.Pid(), b.state(l).StartTime) })
	must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGKILL))
	must.Zero(t, b.wait(task).Code)
	must.Eq(t, "one\ntwo\n", <-collected)
}

// A failed start tells whether it may be tried again.
func TestRootStartTellsInterruption(t *testing.T) {
	ownOnly(t, "a script of ours stands in for the runtime")
	b := newBench(t)
	err := b.refused(b.launch("/bin/garbage"))
	must.Error(t, err)
	must.False(t, errors.Is(err, ErrInterrupted))
	script := filepath.Join(b.root, "dies")
	must.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nkill -9 $$\n"), 0o700))
	b.sup.conf.RuntimePath = script
	l := b.launch("/bin/true")
	_, err = b.sup.Start(t.Context(), l)
	must.ErrorIs(t, err, ErrInterrupted)
	_, err = record.ReadExit(l.Dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}
