package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

func TestLease(t *testing.T) {
	const ttl = 8 * time.Second // So that it looks every 2 s.
	type moment struct {
		at      time.Duration
		content string
		expired bool
	}
	tests := []struct {
		name    string
		moments []moment
	}{
		{"never renewed", []moment{{2 * time.Second, "old", false}, {7 * time.Second, "old", false}, {9 * time.Second, "old", true}}},
		{"renewed in time", []moment{{6 * time.Second, "a", false}, {12 * time.Second, "b", false}, {18 * time.Second, "b", false}, {20 * time.Second, "b", true}}},
		{"same content is no renewal", []moment{{6 * time.Second, "old", false}, {8 * time.Second, "old", true}}},
		{"an empty file is no renewal", []moment{{6 * time.Second, "", false}, {8 * time.Second, "", true}}},
		{"not looked at too often", []moment{{7 * time.Second, "old", false}, {8 * time.Second, "old", false}, {9 * time.Second, "old", true}}},
		{"suspended for long", []moment{{time.Hour, "old", true}}},
		{"suspended for long but renewed", []moment{{time.Hour, "a", false}}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			l := lease{file: filepath.Join(t.TempDir(), "lease"), ttl: ttl}
			must.NoError(t, os.WriteFile(l.file, []byte("old"), 0o600))
			l.begin(0)
			for _, m := range tc.moments {
				must.NoError(t, os.WriteFile(l.file, []byte(m.content), 0o600))
				must.Eq(t, m.expired, l.check(m.at), must.Sprintf("at %s", m.at))
			}
		})
	}
}

func TestLeaseInterval(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		time.Millisecond: minLeasePoll, 2 * time.Second: 500 * time.Millisecond, time.Hour: maxLeasePoll,
	} {
		l := lease{ttl: ttl}
		must.Eq(t, want, l.interval())
	}
	none := lease{file: "/nonexistent"}
	must.False(t, none.exists())
	must.False(t, none.check(time.Hour))
}

// Nothing that could stand in the lease's place makes the shim block or renews the lease.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must.NoError(t, os.WriteFile(path("a"), []byte("a"), 0o600))
	must.NoError(t, os.WriteFile(path("b"), []byte("b"), 0o600))
	must.NoError(t, os.WriteFile(path("empty"), nil, 0o600))
	must.NoError(t, os.Symlink("a", path("link")))
	must.NoError(t, unix.Mkfifo(path("fifo"), 0o600))
	for _, name := range []string{"missing", "empty", "link", "fifo", ""} {
		must.Eq(t, absent, digest(path(name)), must.Sprint(name))
	}
	must.NotEq(t, digest(path("a")), digest(path("b")))
	must.Eq(t, digest(path("a")), digest(path("a")))
}

// A task that is killed while it is held has a parent that reaps it at once, and a kernel that is older than 6.15 tells
// nobody afterwards how it ended.
func TestHeldThenReaped(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	must.NoError(t, cmd.Start())
	start, err := record.StartTime(cmd.Process.Pid)
	must.NoError(t, err)
	s := &shim{dir: t.TempDir(), pidfd: pidfd, state: record.State{Pid: cmd.Process.Pid, StartTime: start}}
	s.lease = lease{file: filepath.Join(s.dir, "lease"), ttl: time.Hour}
	must.NoError(t, cmd.Process.Kill())
	must.False(t, s.hold())
	must.Error(t, cmd.Wait())
	must.NoError(t, unix.Close(pidfd))
	s.pidfd = -1
	must.False(t, s.refused())
	s.collect()
	must.True(t, s.known)
	must.Eq(t, unix.SIGKILL, s.status.Signal())
}
