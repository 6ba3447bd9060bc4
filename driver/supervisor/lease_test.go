package supervisor

import (
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
		time.Sleep(ttl)
		must.Eq(t, "", out.String())
		must.ErrorIs(t, task.Signal(unix.SIGTERM), ErrNotRunning)
		must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, time.Hour))
		got := b.wait(task)
		must.Eq(t, 137, got.Code)
		must.False(t, got.LeaseExpired)
	})
	t.Run("renewed, then expired", func(t *testing.T) {
		task, out, file := held(t, ttl, "expires", script...)
		renew(t, file, "1")
		eventually(t, "the task runs", func() bool { return out.String() == "runs\n" })
		for i := range 4 {
			time.Sleep(ttl / 2)
			renew(t, file, strconv.Itoa(i+2))
		}
		must.False(t, task.ended())
		last := time.Now()
		got := b.wait(task)
		must.True(t, got.LeaseExpired)
		must.Eq(t, 137, got.Code)
		must.Between(t, ttl, got.At.Sub(last).Round(time.Millisecond)+20*time.Millisecond, 2*ttl)
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
