package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// renew writes the lease as Nomad's template does: whole, by rename.
func renew(t testing.TB, path, content string) {
	t.Helper()
	must.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	must.NoError(t, os.Rename(path+".new", path))
}

// keepRenewed renews a lease again and again. It says when the last renewal began, and whether each came within the
// time to live.
func keepRenewed(t testing.TB, file string, ttl time.Duration, enough func() bool) (last time.Time, inTime bool) {
	t.Helper()
	inTime = true
	for n := 1; n == 1 || !enough(); n++ {
		before := last
		last = time.Now()
		renew(t, file, strconv.Itoa(n))
		inTime = inTime && (n == 1 || time.Since(before) < ttl)
		time.Sleep(20 * time.Millisecond)
	}
	return last, inTime
}

// holdsOpen tells whether a process has a file open.
func holdsOpen(pid int, path string) bool {
	links, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd/*"))
	return slices.ContainsFunc(links, func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && target == path
	})
}

func TestRootLease(t *testing.T) {
	b := newBench(t)
	const ttl = 1200 * time.Millisecond
	held := func(t *testing.T, ttl time.Duration, name string, args ...string) (*Task, *logs, string) {
		b := b.on(t)
		file := filepath.Join(b.root, "lease-"+name)
		renew(t, file, "stale")
		l := b.launch(args...)
		out := b.newFIFO(name).read(t)
		l.Stdout, l.Lease = out.path, Lease{File: file, TTL: ttl}
		return b.start(l), out, file
	}
	script := []string{"/bin/sh", "-c", "echo runs; sleep 1000"}

	t.Run("stale content never starts", func(t *testing.T) {
		task, out, file := held(t, ttl, "stale", script...)
		renew(t, file, "stale")
		time.Sleep(ttl) // in which nothing may happen
		must.Eq(t, "", out.String())
		must.ErrorIs(t, task.Signal(unix.SIGTERM), ErrNotRunning)
		must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, time.Hour))
		got := b.wait(task)
		must.Eq(t, 137, got.Code)
		must.False(t, got.LeaseExpired)
	})
	t.Run("renewed, then expired", func(t *testing.T) {
		for n := 1; ; n++ {
			task, out, file := held(t, ttl, fmt.Sprint("expires", n), script...)
			var ran time.Time
			last, inTime := keepRenewed(t, file, ttl, func() bool {
				if ran.IsZero() && out.String() == "runs\n" {
					ran = time.Now()
				}
				return task.ended() || !ran.IsZero() && time.Since(ran) > 2*ttl
			})
			alive := !task.ended()
			inTime = inTime && time.Since(last) < ttl
			got := b.wait(task)
			must.True(t, got.LeaseExpired)
			must.Eq(t, 137, got.Code)
			if !inTime {
				continue // this machine kept the test from renewing it: once more
			}
			must.True(t, alive)
			// How soon it is killed thereafter is up to the machine; TestLease has the shim's own clock.
			must.GreaterEq(t, ttl, got.At.Sub(last)+20*time.Millisecond)
			return
		}
	})
	t.Run("file removed", func(t *testing.T) {
		task, out, file := held(t, ttl, "removed", script...)
		renew(t, file, "1")
		eventually(t, "the task runs", func() bool { return out.String() == "runs\n" })
		must.NoError(t, os.Remove(file))
		must.True(t, b.wait(task).LeaseExpired)
	})
	t.Run("program that can't run", func(t *testing.T) {
		task, _, file := held(t, time.Hour, "broken", "/bin/garbage")
		renew(t, file, "1")
		got := b.wait(task)
		must.Eq(t, 126, got.Code)
		reason := "refused to execute"
		if gvisor() {
			reason = "exec format error"
		}
		must.StrContains(t, got.Error, reason)
	})
	t.Run("killed as it is let go", func(t *testing.T) {
		if gvisor() {
			t.Skip("runsc kills what it can't start, so a kill by others looks like that")
		}
		task, out, file := held(t, time.Hour, "cut", script...)
		// Its init can't do as it is told any more.
		must.NoError(t, unix.Kill(task.Pid(), unix.SIGSTOP))
		renew(t, file, "1")
		shim := b.state(Launch{Dir: task.dir}).ShimPid
		eventually(t, "the shim lets it go, to which it opens the log", func() bool { return holdsOpen(shim, out.path) })
		must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, time.Hour))
		got := b.wait(task)
		must.Eq(t, Exit{Code: 137, Signal: 9, At: got.At, Error: got.Error}, got)
		must.NotEq(t, "", got.Error, must.Sprint("its program never ran"))
		must.Eq(t, "", out.String())
	})
	t.Run("ends by itself", func(t *testing.T) {
		task, _, file := held(t, time.Hour, "ends", "/bin/sh", "-c", "exit 3")
		renew(t, file, "1")
		got := b.wait(task)
		must.Eq(t, Exit{Code: 3, At: got.At}, got)
	})
}
