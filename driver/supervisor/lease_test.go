package supervisor

import (
	"os"
	"path/filepath"
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
	t.Run("ends by itself", func(t *testing.T) {
		task, _, file := held(t, time.Hour, "ends", "/bin/sh", "-c", "exit 3")
		renew(t, file, "1")
		got := b.wait(task)
		must.Eq(t, Exit{Code: 3, At: got.At}, got)
	})
}
