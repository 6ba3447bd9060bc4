package supervisor

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

func TestRootExit(t *testing.T) {
	b := newBench(t)
	// Nothing of the programs above shows: no signal is blocked or ignored, no descriptor is left open (ls has one for
	// the directory itself), the environment is the spec's, huge pages are the host's.
	const clean = `set -e
		test "$(grep -E '^Sig(Blk|Ign):' /proc/self/status | grep -v '	0000000000000000$')" = ""
		test "$(ls /proc/self/fd | tail -1)" = 3
		test "$(umask)" = 0022
		test "$(grep THP_enabled: /proc/self/status | tr -dc 0-9)" != 0
		test "$(env | grep -vE '^(PATH|HOME|PWD|SHLVL|OLDPWD|_)=')" = ""`
	tests := []struct {
		name string
		args []string
		want Exit
	}{
		{"true", []string{"/bin/true"}, Exit{}},
		{"false", []string{"/bin/false"}, Exit{Code: 1}},
		{"looked up in PATH", []string{"sh", "-c", "exit 42"}, Exit{Code: 42}},
		{"highest code", []string{"/bin/sh", "-c", "exit 255"}, Exit{Code: 255}},
		{"a child's death by signal", []string{"/bin/sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, Exit{Code: 137}},
		{"default signals, files and mask", []string{"/bin/sh", "-c", clean}, Exit{}},
		{"background child", []string{"/bin/sh", "-c", "sleep 1000 & exit 3"}, Exit{Code: 3}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			b := b.on(t)
			got := b.run(b.launch(tc.args...))
			must.Less(t, time.Minute, time.Since(got.At))
			got.At = time.Time{}
			must.Eq(t, tc.want, got)
		})
	}
}

func TestRootStartErrors(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"missing in PATH", []string{"nosuch"}, "executable file not found"},
		{"missing by path", []string{"/bin/nosuch"}, "no such file or directory"},
		{"not executable", []string{"/etc/passwd"}, "permission denied"},
		{"not a program", []string{"/bin/garbage"}, "refused to execute"},
	}
	if gvisor() {
		tests[0].want, tests[3].want = "no such file or directory", "exec format error"
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			must.ErrorContains(t, b.on(t).refused(b.launch(tc.args...)), tc.want)
		})
	}
}

func TestRootLogs(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "echo out; echo err >&2; echo again >/dev/stdout; seq 1 100000 | tail -1")
	out, err := b.newFIFO("out").read(t), b.newFIFO("err").read(t)
	l.Stdout, l.Stderr = out.path, err.path
	exit := b.run(l)
	must.Zero(t, exit.Code)
	must.Zero(t, exit.DroppedLogBytes)
	eventually(t, "all output has come", func() bool { return out.String() == "out\nagain\n100000\n" && err.String() == "err\n" })
}

// terminalName is what tty says of a terminal. gVisor has the host's terminals, without their names.
func terminalName() string {
	if gvisor() {
		return "not a tty\r\n"
	}
	return "/dev/pts/0\r\n"
}

// A terminal hangs up with its shim, but the task's end is known all the same.
func TestRootTerminalShimKilled(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", `trap '' HUP; trap end=1 USR1; tty; stty -echo; echo on it >/dev/tty
		while [ -z "$end" ]; do sleep 0.05; done; echo more 2>/dev/null; exit 9`)
	l.Spec.Process.Terminal = true
	// As in the driver's sandboxes: runsc makes the terminal from within the task's cgroup.
	for _, node := range []struct{ major, minor *int64 }{{ptr(int64(5)), ptr(int64(2))}, {ptr(int64(136)), nil}} {
		l.Spec.Linux.Resources.Devices = append(l.Spec.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: node.major, Minor: node.minor, Access: "rw"})
	}
	out, errs := b.newFIFO("out").read(t), b.newFIFO("err").read(t)
	l.Stdout, l.Stderr = out.path, errs.path
	task := b.start(l)
	eventually(t, "the terminal is told", func() bool { return out.String() == terminalName()+"on it\r\n" })
	first := b.state(l)
	must.NoError(t, unix.Kill(first.ShimPid, unix.SIGKILL))
	eventually(t, "the terminal has hung up", func() bool { return !record.Alive(first.ShimPid, first.ShimStartTime) })
	must.NoError(t, task.Signal(unix.SIGUSR1))
	must.Eq(t, 9, b.wait(task).Code)
	must.Eq(t, "", errs.String())
}

func TestRootSignalAndStop(t *testing.T) {
	b := newBench(t)
	const trap = "trap 'exit 7' TERM; trap '' INT; while true; do sleep 0.05; done"
	tests := []struct {
		name    string
		signal  unix.Signal
		timeout time.Duration
		want    Exit
	}{
		{"handled", unix.SIGTERM, patience, Exit{Code: 7}},
		{"ignored, then killed", unix.SIGINT, 200 * time.Millisecond, Exit{Code: 137, Signal: 9}},
		{"at once", unix.SIGINT, 0, Exit{Code: 137, Signal: 9}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			b := b.on(t)
			l := b.launch("/bin/sh", "-c", trap)
			out := b.newFIFO("out-" + strings.ReplaceAll(tc.name, " ", "")).read(t)
			l.Stdout = out.path
			l.Spec.Process.Args[2] = strings.Replace(trap, "while", "echo ready; while", 1)
			task := b.start(l)
			eventually(t, "the trap is set", func() bool { return out.String() == "ready\n" })
			must.NoError(t, task.Stop(t.Context(), tc.signal, tc.timeout))
			got := b.wait(task)
			got.At = time.Time{}
			must.Eq(t, tc.want, got)
			must.ErrorIs(t, task.Signal(unix.SIGTERM), ErrNotRunning)
			must.NoError(t, task.Stop(t.Context(), tc.signal, tc.timeout))
		})
	}
}

func TestRootDestroyTwice(t *testing.T) {
	b := newBench(t)
	task := b.start(b.launch("/bin/sleep", "1000"))
	must.NoError(t, task.Destroy(t.Context()))
	must.NoError(t, task.Destroy(t.Context()))
	must.Eq(t, 137, b.wait(task).Code)
}

func TestRootStartCancelled(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.sup.Start(ctx, b.launch("/bin/sleep", "1000"))
	must.ErrorIs(t, err, context.Canceled)
}

func TestRootRefusals(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name   string
		change func(*Launch)
		want   string
	}{
		{"id with a slash", func(l *Launch) { l.ID = "a/b" }, "cannot name a sandbox"},
		{"id of dots", func(l *Launch) { l.ID = ".." }, "cannot name a sandbox"},
		{"relative directory", func(l *Launch) { l.Dir = "x" }, "not absolute"},
		{"no cgroup", func(l *Launch) { l.Spec.Linux.CgroupsPath = "" }, "cgroup path"},
		{"root cgroup", func(l *Launch) { l.Spec.Linux.CgroupsPath = "/" }, "cgroup path"},
		{"shallow cgroup", func(l *Launch) { l.Spec.Linux.CgroupsPath = "/nomad" }, "cgroup path"},
		{"climbing cgroup", func(l *Launch) { l.Spec.Linux.CgroupsPath = "/nomad/../../x" }, "cgroup path"},
		{"lease without a file", func(l *Launch) { l.Lease.TTL = time.Second }, "cannot lease"},
		{"no log FIFO", func(l *Launch) { l.Stdout = b.root + "/a/b/c" }, "no such file"},
		{"log to a file", func(l *Launch) { l.Stdout = b.rootfs + "/etc/passwd" }, "is no FIFO"},
		{"log to a symlink", func(l *Launch) {
			must.NoError(t, os.Symlink(b.newFIFO("real").path, b.root+"/alloc/logs/link"))
			l.Stdout = b.root + "/alloc/logs/link"
		}, "is no FIFO"},
		{"log below a symlink", func(l *Launch) {
			must.NoError(t, os.Symlink("logs", b.root+"/alloc/other"))
			l.Stdout = b.root + "/alloc/other/real"
		}, "too many levels of symbolic links"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			l := b.launch("/bin/true")
			tc.change(&l)
			_, err := b.sup.Start(t.Context(), l)
			must.ErrorContains(t, err, tc.want)
		})
	}
}
