package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestRootInit(t *testing.T) {
	w := newWorld(t, nil)
	with := func(script string, change func(*JobConfig)) JobConfig {
		job := sh(script)
		job.Init = true
		if change != nil {
			change(&job)
		}
		return job
	}
	cases := []struct {
		name   string
		job    JobConfig
		change func(*drivers.TaskConfig)
		code   int
		out    string
	}{
		{name: "the first process is ours", job: with("cat /proc/1/comm; [ $$ = 1 ] || echo child; exit 7", nil), code: 7, out: "pangaea-init\nchild\n"},
		{name: "what is left behind is reaped", job: with("sh -c 'sleep 0.1 & exit 0'; while set -- /proc/[0-9]*; [ $# -gt 2 ]; do sleep 0.05; done; echo reaped", nil), out: "reaped\n"},
		{name: "killed by a signal", job: with("kill -9 $$; sleep 9", nil), code: 137},
		{name: "found in PATH", job: JobConfig{Init: true, Command: "true"}, code: 0},
		{name: "not found", job: JobConfig{Init: true, Command: "nothing"}, code: 127},
		{name: "not a program", job: JobConfig{Init: true, Command: "/etc/passwd"}, code: 126},
		{name: "out of its user's reach", job: with("id -u; echo x 2>/dev/null > /dev/pangaea-init || echo refused; echo x 2>/dev/null > /proc/1/exe || echo refused", nil), out: "0\nrefused\nrefused\n"},
		{name: "another user, read-only root, limits", job: with("id -u; ulimit -n", func(j *JobConfig) {
			j.ReadonlyRootfs, j.Ulimit = true, map[string]string{"nofile": "100:200"}
		}), change: func(c *drivers.TaskConfig) { c.User = "alice" }, out: "1000\n100\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			result := w.run(t, c.job, c.change, c.out)
			must.NoError(t, result.Err)
			must.Eq(t, c.code, result.ExitCode)
		})
	}
	// Signals reach the program, and its end is the task's.
	cfg := w.task(t, with("trap 'echo hup' HUP; trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.05; done", nil))
	w.start(t, cfg)
	w.says(t, cfg, "ready\n")
	must.NoError(t, w.harness.SignalTask(cfg.ID, "SIGHUP"))
	w.says(t, cfg, "ready\nhup\n")
	must.NoError(t, w.harness.StopTask(cfg.ID, patience, "SIGTERM"))
	must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode)
}

func TestRootTerminal(t *testing.T) {
	w := newWorld(t, nil)
	// gVisor has the host's terminals, without their names.
	name := "/dev/pts/0\r\n"
	if gvisor() {
		name = "not a tty\r\n"
	}
	for _, c := range []struct {
		name string
		init bool
	}{{"the first process", false}, {"a child of the init", true}} {
		t.Run(c.name, func(t *testing.T) {
			job := sh("tty; echo err >&2; exec 3<>/dev/tty && echo controlling; exit 4")
			job.TTY, job.Init = true, c.init
			must.Eq(t, 4, w.run(t, job, nil, name+"err\r\ncontrolling\r\n").ExitCode)
		})
	}
	// A flood comes whole, also the end of it.
	job := sh("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
	job.TTY = true
	cfg := w.task(t, job)
	w.start(t, cfg)
	must.Eq(t, 0, w.wait(t, cfg.ID).ExitCode)
	eventually(t, func() bool { text := w.output(cfg); return len(text) > 20 && text[len(text)-11:] == "line 1999\r\n" })
}

func TestRootInteractive(t *testing.T) {
	w := newWorld(t, nil)
	const script = "read x && echo got $x || echo end"
	w.run(t, sh(script), nil, "end\n")

	job := sh(script)
	job.Interactive = true
	cfg := w.task(t, job)
	cfg.User = "alice"
	w.start(t, cfg)
	h, ok := w.driver.task(cfg.ID)
	must.True(t, ok)
	input, err := os.OpenFile(filepath.Join(h.dir, "stdin.fifo"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	must.NoError(t, err, must.Sprint("the task holds its input open"))
	defer input.Close()
	must.True(t, h.running())
	_, err = input.WriteString("word\n")
	must.NoError(t, err)
	must.Eq(t, 0, w.wait(t, cfg.ID).ExitCode)
	w.says(t, cfg, "got word\n")
}

// TestRootSeccompProfile denies one call more than the default profile does.
func TestRootSeccompProfile(t *testing.T) {
	dir := t.TempDir()
	profile := `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [` + allCalls + `], "action": "SCMP_ACT_ALLOW"}]}`
	must.NoError(t, os.WriteFile(filepath.Join(dir, "no-mkdir.json"), []byte(profile), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "open.json"), []byte(`{"defaultAction": "SCMP_ACT_ALLOW"}`), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "garbage.json"), []byte(`{`), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "empty.json"), nil, 0o644))
	must.NoError(t, os.Symlink(filepath.Join(dir, "no-mkdir.json"), filepath.Join(dir, "link.json")))
	w := newWorld(t, func(c *Config) { c.AllowSeccompProfiles = dir })
	const script = "mkdir /tmp/x 2>/dev/null && echo made || echo refused"
	w.run(t, sh(script), nil, "made\n")
	job := sh(script)
	job.SeccompProfile = "no-mkdir"
	w.run(t, job, nil, "refused\n")
	for name, text := range map[string]string{
		"open": "not a sandbox", "garbage": "operator's profile", "empty": "is empty", "none": "no such file", "link": "cannot use seccomp_profile",
		"../no-mkdir": "name one of the operator's profiles", "unconfined": "no such file",
	} {
		job.SeccompProfile = name
		_, _, err := w.harness.StartTask(w.prepare(t, job, false))
		must.ErrorContains(t, err, text, must.Sprint(name))
	}
}

// allCalls is what a shell needs, and what the runtime calls late.
const allCalls = `"access", "arch_prctl", "brk", "capget", "capset", "chdir", "clone", "clone3", "close", "close_range", "dup", "dup2", "dup3",
"epoll_create1", "epoll_ctl", "epoll_pwait", "execve", "exit", "exit_group", "faccessat", "faccessat2", "fchdir", "fchmod", "fchown", "fcntl",
"fork", "fstat", "fstatfs", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid", "getrandom",
"getrlimit", "gettid", "getuid", "ioctl", "kill", "lseek", "lstat", "madvise", "mmap", "mprotect", "mremap", "munmap", "nanosleep",
"newfstatat", "open", "openat", "openat2", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "poll", "prctl", "pread64", "prlimit64",
"read", "readlink", "readlinkat", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
"set_robust_list", "set_tid_address", "setgid", "setgroups", "setpgid", "setsid", "setuid", "sigaltstack", "stat", "statx", "sysinfo",
"tgkill", "time", "tkill", "umask", "uname", "vfork", "wait4", "waitid", "write", "writev"`
