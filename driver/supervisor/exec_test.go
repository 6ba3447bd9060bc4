package supervisor

import (
	"bytes"
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestRootExec(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sleep", "1000")
	profile, err := seccomp.GetDefaultProfile(l.Spec)
	must.NoError(t, err)
	l.Spec.Linux.Seccomp = profile
	l.Spec.Process.Env = append(l.Spec.Process.Env, "TASK=own")
	task := b.start(l)
	// gVisor says it in its own words, and has the host's terminals without their names.
	missing, terminal := "executable file not found", "/dev/pts/0\r\n"
	if gvisor() {
		missing, terminal = "no such file or directory", "not a tty\r\n"
	}
	tests := []struct {
		name           string
		request        ExecRequest
		stdin          string
		code           int
		stdout, stderr string
	}{
		{"streams", ExecRequest{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 5"}}, "", 5, "out\n", "err\n"},
		{"stdin", ExecRequest{Args: []string{"cat"}}, "hello", 0, "hello", ""},
		{"environment", ExecRequest{Args: []string{"sh", "-c", "echo $TASK $MORE"}, Env: []string{"MORE=added"}}, "", 0, "own added\n", ""},
		{"umask", ExecRequest{Args: []string{"sh", "-c", "umask"}}, "", 0, "0022\n", ""},
		{"directory", ExecRequest{Args: []string{"pwd"}, Cwd: "/tmp"}, "", 0, "/tmp\n", ""},
		{"user by name", ExecRequest{Args: []string{"id"}, User: "alice"}, "", 0, "uid=1000(alice) gid=1001(staff) groups=1002(extra)\n", ""},
		{"user by number", ExecRequest{Args: []string{"id", "-u"}, User: "7:8"}, "", 0, "7\n", ""},
		{"killed", ExecRequest{Args: []string{"sh", "-c", "kill -9 $$"}}, "", 137, "", ""},
		{"background child keeps the pipe", ExecRequest{Args: []string{"sh", "-c", "sleep 1000 & echo done"}}, "", 0, "done\n", ""},
		{"no such program", ExecRequest{Args: []string{"nosuch"}}, "", 127, "", missing},
		{"no program", ExecRequest{Args: []string{"/etc/passwd"}}, "", 126, "", "permission denied"},
		{"seccomp", ExecRequest{Args: []string{"grep", "^Seccomp:", "/proc/self/status"}}, "", 0, "Seccomp:\t2\n", ""},
		{"cgroups", ExecRequest{Args: []string{"sh", "-c", `[ "$(cat /proc/1/cgroup)" = "$(cat /proc/self/cgroup)" ] && echo same || cat /proc/1/cgroup /proc/self/cgroup`}}, "", 0, "same\n", ""},
		{"terminal", ExecRequest{Args: []string{"sh", "-c", "tty; exit 9"}, TTY: true}, "", 9, terminal, ""},
		{"terminal without such a program", ExecRequest{Args: []string{"nosuch"}, TTY: true}, "", 127, missing, ""},
		{"terminal with stdin", ExecRequest{Args: []string{"cat"}, TTY: true}, "typed\n", 0, "typed\r\ntyped\r\n", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if strings.Contains(tc.name, "keeps the pipe") && b.runtime == "runc" {
				t.Skip("runc's exec ends when its output does, and detached it tells no exit code")
			}
			var out, err bytes.Buffer
			r := tc.request
			r.Stdout, r.Stderr = &out, &err
			if tc.stdin != "" {
				r.Stdin = strings.NewReader(tc.stdin)
			}
			code, failed := task.Exec(t.Context(), r)
			must.NoError(t, failed)
			must.StrContains(t, err.String(), tc.stderr)
			must.StrContains(t, out.String(), tc.stdout)
			must.Eq(t, tc.code, code)
		})
	}
}

// slowClient takes longer for each piece of output than an exec waits for more once its program has ended.
type slowClient struct{ lockedBuffer }

func (s *slowClient) Write(p []byte) (int, error) {
	time.Sleep(lingerTime * 5 / 4)
	return s.lockedBuffer.Write(p)
}

// A client that is slow to take the output gets all of it.
func TestRootExecSlowClient(t *testing.T) {
	b := newBench(t)
	task := b.start(b.launch("/bin/sleep", "1000"))
	for tty, lines := range map[bool]int{false: 9000, true: 3000} {
		out := &slowClient{}
		code, err := task.Exec(t.Context(), ExecRequest{Args: []string{"seq", "1", strconv.Itoa(lines)}, TTY: tty, Stdout: out})
		must.NoError(t, err)
		must.Zero(t, code)
		must.Eq(t, lines, strings.Count(out.String(), "\n"), must.Sprintf("tty %v", tty))
	}
}

func TestRootExecResize(t *testing.T) {
	b := newBench(t)
	task := b.start(b.launch("/bin/sleep", "1000"))
	sizes := make(chan Size, 1)
	sizes <- Size{Rows: 11, Cols: 22}
	input, typed := io.Pipe()
	out := &lockedBuffer{}
	code := make(chan int, 1)
	go func() {
		got, err := task.Exec(context.Background(), ExecRequest{
			Args: []string{"sh"}, TTY: true, Stdin: input, Stdout: out, Resize: sizes,
		})
		must.NoError(t, err)
		code <- got
	}()
	_, err := typed.Write([]byte("stty size\n"))
	must.NoError(t, err)
	eventually(t, "the first size is there", func() bool { return strings.Contains(out.String(), "11 22") })
	sizes <- Size{Rows: 33, Cols: 44}
	eventually(t, "the size has changed", func() bool {
		_, err := typed.Write([]byte("stty size\n"))
		must.NoError(t, err)
		return strings.Contains(out.String(), "33 44")
	})
	_, err = typed.Write([]byte("exit 3\n"))
	must.NoError(t, err)
	must.Eq(t, 3, <-code)
	must.NoError(t, typed.Close())
}

func TestRootExecCancelled(t *testing.T) {
	b := newBench(t)
	task := b.start(b.launch("/bin/sleep", "1000"))
	ctx, cancel := context.WithCancel(t.Context())
	out := &lockedBuffer{}
	failed := make(chan error, 1)
	go func() {
		_, err := task.Exec(ctx, ExecRequest{Args: []string{"sh", "-c", "echo up; exec sleep 12345"}, Stdout: out})
		failed <- err
	}()
	eventually(t, "the program runs", func() bool { return out.String() == "up\n" })
	cancel()
	must.ErrorIs(t, <-failed, context.Canceled)
	eventually(t, "the program is dead", func() bool {
		code, err := task.Exec(t.Context(), ExecRequest{Args: []string{"sh", "-c", "grep -q 1234[5] /proc/[0-9]*/cmdline"}})
		must.NoError(t, err)
		return code == 1
	})
}

func TestRootExecRefused(t *testing.T) {
	b := newBench(t)
	task := b.start(b.launch("/bin/sleep", "1000"))
	_, err := task.Exec(t.Context(), ExecRequest{})
	must.ErrorContains(t, err, "name a program")
	_, err = task.Exec(t.Context(), ExecRequest{Args: []string{"id"}, User: "mallory"})
	must.ErrorContains(t, err, "cannot find user")
	must.NoError(t, task.Stop(t.Context(), unix.SIGKILL, time.Second))
	_, err = task.Exec(t.Context(), ExecRequest{Args: []string{"id"}})
	must.ErrorIs(t, err, ErrNotRunning)
}

// The files that name the sandbox's users are the tenant's: none may lead outside or block.
func TestRootExecHostileAccounts(t *testing.T) {
	b := newBench(t)
	must.NoError(t, os.Remove(b.rootfs+"/etc/passwd"))
	must.NoError(t, os.Symlink("/etc/secret", b.rootfs+"/etc/passwd"))
	must.NoError(t, os.Remove(b.rootfs+"/etc/group"))
	must.NoError(t, unix.Mkfifo(b.rootfs+"/etc/group", 0o644))
	task := b.start(b.launch("/bin/sleep", "1000"))
	_, err := task.Exec(t.Context(), ExecRequest{Args: []string{"id"}, User: "root"})
	must.ErrorContains(t, err, "cannot find user")
}

func TestRootStats(t *testing.T) {
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", "sleep 1000 & yes >/dev/null")
	l.Spec.Linux.Resources.Memory = memoryLimit(64 << 20)
	task := b.start(l)
	var s Stats
	eventually(t, "the task has used the processor", func() bool {
		var err error
		s, err = task.Stats()
		must.NoError(t, err)
		return s.CPUTotal > 0 && s.CPUUser+s.CPUSystem > 0 && s.Pids >= 2 && s.MemoryRSS > 0
	})
	must.Eq(t, 64<<20, s.MemoryLimit)
	must.GreaterEq(t, s.MemoryRSS, s.MemoryUsage)
	must.Positive(t, s.MemoryMaxUsage)
	must.NoError(t, task.Destroy(t.Context()))
	_, err := task.Stats()
	must.ErrorIs(t, err, ErrNotRunning)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
