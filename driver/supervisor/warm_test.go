package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// waiting is the pair that waits, and its runtime's pid once that is there.
func (b *bench) waiting() (shim, runtime int) {
	b.t.Helper()
	b.sup.Warm()
	must.NotNil(b.t, b.sup.spare)
	shim = b.sup.spare.child.Process.Pid
	name := strconv.Itoa(shim)
	eventually(b.t, "the shim has its runtime", func() bool {
		// Which of its threads has started it is up to Go.
		lists, _ := filepath.Glob("/proc/" + name + "/task/*/children")
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			runtime, _ = strconv.Atoi(strings.TrimSpace(string(text)))
			if runtime != 0 {
				return true
			}
		}
		return false
	})
	return shim, runtime
}

// gone says whether a process has ended; the machine's init may take its time to reap it.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestRootWarm(t *testing.T) {
	ownOnly(t, "only our own runtime is started ahead")
	b := newBench(t)
	t.Cleanup(b.sup.Close)
	t.Run("a pair serves one task", func(t *testing.T) {
		b := b.on(t)
		shim, _ := b.waiting()
		l := b.launch("/bin/sh", "-c", "echo out; echo err >&2; exit 9")
		out, err := b.newFIFO(l.ID+"-out").read(t), b.newFIFO(l.ID+"-err").read(t)
		l.Stdout, l.Stderr = out.path, err.path
		task := b.start(l)
		must.Eq(t, 9, b.wait(task).Code)
		must.Eq(t, shim, b.state(l).ShimPid)
		must.Nil(t, b.sup.spare)
		eventually(t, "the output is there", func() bool { return out.String() == "out\n" && err.String() == "err\n" })
		must.Zero(t, b.run(b.launch("/bin/true")).Code, must.Sprint("without a pair"))
	})
	t.Run("warming twice is warming once", func(t *testing.T) {
		b := b.on(t)
		first, _ := b.waiting()
		second, _ := b.waiting()
		must.Eq(t, first, second)
	})
	for _, tc := range []struct {
		name string
		kill func(shim, runtime int) int
	}{
		{"a shim that died", func(shim, _ int) int { return shim }},
		{"a runtime that died", func(_, runtime int) int { return runtime }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := b.on(t)
			victim := tc.kill(b.waiting())
			pidfd, err := unix.PidfdOpen(victim, 0)
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, unix.Close(pidfd)) })
			must.NoError(t, unix.Kill(victim, unix.SIGKILL))
			eventually(t, "all its threads are dead", func() bool { return ended(pidfd) })
			must.Eq(t, 11, b.run(b.launch("/bin/sh", "-c", "exit 11")).Code)
		})
	}
	t.Run("a task that can't start", func(t *testing.T) {
		b := b.on(t)
		b.waiting()
		_, err := b.sup.Start(t.Context(), b.launch("/bin/nosuch"))
		must.ErrorContains(t, err, "nosuch")
	})
	t.Run("recovered like any other", func(t *testing.T) {
		b := b.on(t)
		b.waiting()
		l := b.launch("/bin/sh", "-c", "sleep 0.2; exit 12")
		b.start(l)
		again, err := New(b.sup.conf).Recover(l.Dir)
		must.NoError(t, err)
		must.Eq(t, 12, b.wait(again).Code)
		must.NoError(t, again.Destroy(t.Context()))
	})
}

// A supervisor that ends, by Close or by dying, takes the waiting pair along.
func TestRootWarmEnds(t *testing.T) {
	ownOnly(t, "only our own runtime is started ahead")
	b := newBench(t)
	shim, runtime := b.waiting()
	b.sup.Close()
	eventually(t, "the pair has gone", func() bool { return gone(shim) && gone(runtime) })
	b.sup.Warm()
	must.Nil(t, b.sup.spare, must.Sprint("it was closed"))

	b.sup = New(b.sup.conf)
	shim, runtime = b.waiting()
	must.NoError(t, b.sup.spare.order.Close())
	eventually(t, "the pair has gone by itself", func() bool {
		return !b.sup.spare.process.alive() && gone(runtime)
	})
	b.sup.Close()
	must.True(t, gone(shim))
}

func TestWarmWithoutPrograms(t *testing.T) {
	for _, kind := range []string{KindPangaea, KindOCI} {
		s := New(Config{ShimPath: "/nonexistent", RuntimePath: "/nonexistent", RuntimeKind: kind})
		s.Warm()
		must.Nil(t, s.spare)
		s.Close()
	}
}
