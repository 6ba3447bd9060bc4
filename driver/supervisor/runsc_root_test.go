package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
)

// gvisorOnly skips a test of what only gVisor does.
func gvisorOnly(t testing.TB) {
	t.Helper()
	if !gvisor() {
		t.Skip("it is about gVisor: " + runtimeEnv + "=runsc")
	}
}

// said runs a script and returns what it said, and how it ended.
func (b *bench) said(script string) (string, Exit) {
	b.t.Helper()
	// In one stream, for of two nobody knows which comes first.
	l := b.launch("/bin/sh", "-c", "exec 2>&1; "+script+"; echo end")
	out := b.newFIFO("said-" + l.ID).read(b.t)
	l.Stdout = out.path
	exit := b.run(l)
	eventually(b.t, "all output has come", func() bool { return strings.HasSuffix(out.String(), "end\n") || exit.Code != 0 })
	return out.String(), exit
}

// The task's kernel is gVisor's: what it tells is not about the host, and what it does not know the host is not asked.
func TestRootRunscKernel(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	var host unix.Utsname
	must.NoError(t, unix.Uname(&host))
	release := unix.ByteSliceToString(host.Release[:])
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	must.StrContains(t, string(mounts), "cgroup", must.Sprint("so that its absence below says something"))
	for name, script := range map[string]string{
		"kernel":      "cat /proc/version",
		"ring buffer": "/bin/busybox dmesg",
		"mounts":      "cat /proc/self/mountinfo",
		"processes":   "for p in /proc/[0-9]*; do echo $p; done",
		"interfaces":  "ls /sys/class/net /proc/net/dev; cat /proc/net/dev",
		"devices":     "ls /dev",
	} {
		t.Run(name, func(t *testing.T) {
			b := b.on(t)
			text, exit := b.said(script)
			must.Zero(t, exit.Code)
			must.StrNotContains(t, text, release)
			must.StrNotContains(t, text, b.root)
			switch name {
			case "ring buffer":
				must.StrContains(t, text, "gVisor")
			case "processes":
				must.LessEq(t, 3, strings.Count(text, "/proc/"), must.Sprint(text))
			case "interfaces":
				must.StrNotContains(t, text, "eth")
			case "devices":
				must.StrNotContains(t, text, "sd")
				must.StrNotContains(t, text, "kvm")
			}
		})
	}
}

// The programs of the sandbox on the host are in the task's cgroups with its limits, whoever made these before.
func TestRootRunscCgroup(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	l := b.launch("/bin/sleep", "1000")
	l.Spec.Linux.Resources.Memory = memoryLimit(256 << 20)
	group, err := cgroup.New(l.Spec.Linux.CgroupsPath)
	must.NoError(t, err)
	if !group.Unified() {
		// As Nomad's client does.
		for _, controller := range []string{"memory", "cpu", "freezer"} {
			must.NoError(t, os.MkdirAll(group.Dir(controller), 0o755))
		}
	} else {
		must.NoError(t, os.MkdirAll(group.Dir(""), 0o755))
	}
	task := b.start(l)
	stats, err := task.Stats()
	must.NoError(t, err)
	must.Eq(t, 256<<20, stats.MemoryLimit)
	pids, err := os.ReadFile(filepath.Join(group.Dir("pids"), "pids.max"))
	must.NoError(t, err)
	must.Eq(t, "64\n", string(pids))
	// The device rules hold for a process of the host that finds itself in there.
	script := fmt.Sprintf("echo $$ >%s/cgroup.procs && : <%%s", group.Dir("devices"))
	out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf(script, "/dev/null")).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	out, err = exec.Command("/bin/sh", "-c", fmt.Sprintf(script, "/dev/full")).CombinedOutput()
	must.Error(t, err)
	must.StrContains(t, string(out), "not permitted")
	for _, pid := range group.Pids() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended since
		}
		must.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			for _, controller := range []string{"memory", "pids", "devices"} {
				if strings.Contains(line, ":"+controller+":") {
					must.StrContains(t, line, l.Spec.Linux.CgroupsPath)
				}
			}
		}
	}
	must.GreaterEq(t, 2, len(group.Pids()), must.Sprint("the kernel and the gofer"))
}

func TestRootRunscTooLittleMemory(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	l := b.launch("/bin/true")
	l.Spec.Linux.Resources.Memory = memoryLimit(8 << 20)
	_, err := b.sup.Start(t.Context(), l)
	must.ErrorContains(t, err, "memory does not suffice for the sandbox itself")
}

func TestRootRunscTooFewProcesses(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	for _, limit := range []int64{1, 5} {
		l := b.launch("/bin/true")
		l.Spec.Linux.Resources.Pids.Limit = ptr(limit)
		_, err := b.sup.Start(t.Context(), l)
		must.ErrorContains(t, err, "does not suffice for the sandbox itself: raise pids_limit", must.Sprint(limit))
	}
}

// Signals go by way of the task's kernel. What would stop that one, or what Go keeps for itself, takes another way.
func TestRootRunscSignals(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	l := b.launch("/bin/sh", "-c", `for s in HUP USR1 CHLD URG PIPE WINCH; do trap "echo $s" $s; done
		trap 'echo end; exit 6' TERM; echo ready; while true; do sleep 0.05; done`)
	out := b.newFIFO("signals").read(t)
	l.Stdout = out.path
	task := b.start(l)
	eventually(t, "the traps are set", func() bool { return strings.HasPrefix(out.String(), "ready\n") })
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGURG, unix.SIGPIPE, unix.SIGWINCH} {
		must.NoError(t, task.Signal(sig))
		name := strings.TrimPrefix(unix.SignalName(sig), "SIG")
		eventually(t, name+" has arrived", func() bool { return strings.Contains(out.String(), name+"\n") })
	}
	must.ErrorContains(t, task.Signal(40), "no real-time signals")

	must.NoError(t, task.Signal(unix.SIGSTOP))
	must.NoError(t, task.Signal(unix.SIGTERM))
	time.Sleep(300 * time.Millisecond)
	must.StrNotContains(t, out.String(), "end")
	code, err := task.Exec(t.Context(), ExecRequest{Args: []string{"true"}})
	must.NoError(t, err, must.Sprint("the task stands still, its kernel does not"))
	must.Zero(t, code)
	must.NoError(t, task.Signal(unix.SIGCONT))
	must.Eq(t, 6, b.wait(task).Code)
}

// Whatever part of the sandbox is killed, the task ends and nothing is left.
func TestRootRunscPartKilled(t *testing.T) {
	gvisorOnly(t)
	b := newBench(t)
	for _, part := range []string{"runsc-sandbox", "runsc-gofer"} {
		t.Run(part, func(t *testing.T) {
			b := b.on(t)
			task := b.start(b.launch("/bin/sh", "-c", "while true; do ls /bin >/dev/null; sleep 0.1; done"))
			killed := 0
			for _, pid := range task.group.Pids() {
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // some end meanwhile
				// What the sandbox has just forked has its name for a moment.
				if strings.HasPrefix(string(name), part) && (pid == task.Pid() || part != "runsc-sandbox") {
					must.NoError(t, unix.Kill(pid, unix.SIGKILL))
					killed++
				}
			}
			must.Eq(t, 1, killed)
			exit := b.wait(task)
			must.False(t, exit.Unknown)
			must.Positive(t, exit.Code)
		})
	}
}
