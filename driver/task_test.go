package driver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"
)

func TestRootRun(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowCaps = []string{"chown"}; c.AllowSysctls = []string{"kernel.shmmni"} })
	user := func(job JobConfig) JobConfig { job.Image = w.registry + "/user:1"; return job }
	with := func(job JobConfig, change func(*JobConfig)) JobConfig { change(&job); return job }
	cases := []struct {
		name   string
		job    JobConfig
		change func(*drivers.TaskConfig)
		code   int
		out    string
		// refused is why gVisor's tasks can't have it, if they can't.
		refused string
	}{
		{name: "the image's command", out: "from the image\n"},
		{name: "exit code", job: sh("exit 7"), code: 7},
		{name: "killed by itself", job: sh("kill -9 $$; sleep 9"), code: 0},
		{name: "environment of job and image", job: sh("echo $GREETING $FROM_IMAGE $NVIDIA_VISIBLE_DEVICES"), out: "hello yes void\n"},
		{name: "first process, root of its own", job: sh("echo $$; id -u; cat /proc/self/uid_map | wc -l"), out: "1\n0\n1\n"},
		{name: "the image's user, directory and entrypoint", job: user(JobConfig{Args: []string{"id; pwd"}}), out: "uid=1000(alice) gid=1001(staff) groups=1001(staff),1002(extra)\n/home\n"},
		{name: "the job's user by number", job: sh("id -u; id -g"), change: func(c *drivers.TaskConfig) { c.User = "1000" }, out: "1000\n1001\n"},
		{name: "the job's user and group", job: sh("id -u; id -g"), change: func(c *drivers.TaskConfig) { c.User = "42:extra" }, out: "42\n1002\n"},
		{name: "task directories are writable, owners kept", job: sh("for d in /local /alloc /secrets; do touch $d/x && stat -c %u $d/x; done"), out: "0\n0\n0\n"},
		{name: "working directory", job: with(sh("pwd"), func(j *JobConfig) { j.WorkDir = "/etc" }), out: "/etc\n"},
		{name: "host name and hosts", job: with(sh("hostname; grep web /etc/hosts; grep db /etc/hosts"), func(j *JobConfig) {
			j.Hostname, j.ExtraHosts = "web", []string{"db:192.0.2.7"}
		}), out: "web\n127.0.1.1 web\n192.0.2.7 db\n"},
		// gVisor's sysfs shows no interfaces.
		{name: "loopback only", job: sh(byKernel("ls /sys/class/net", "ip -o link | grep -o '^[0-9]*: [a-z0-9]*'")), out: byKernel("lo\n", "1: lo\n")},
		{name: "no capability", job: sh("grep Cap /proc/self/status | grep -v 0000000000000000; chown 1 /tmp || echo refused"), out: "refused\n"},
		{name: "an allowed capability", job: with(sh("touch /tmp/x; chown 1 /tmp/x && echo done"), func(j *JobConfig) { j.CapAdd = []string{"CHOWN"} }), out: "done\n"},
		{name: "an allowed sysctl", job: with(sh("cat /proc/sys/kernel/shmmni"), func(j *JobConfig) { j.Sysctl = map[string]string{"kernel.shmmni": "99"} }), out: "99\n", refused: "gVisor has kernel settings of its own"},
		{name: "read-only root", job: with(sh("touch /x || echo refused; touch /tmp/x && echo ok"), func(j *JobConfig) { j.ReadonlyRootfs = true }), out: "refused\nok\n"},
		{name: "tmpfs of a size", job: with(sh("dd if=/dev/zero of=/scratch/x bs=1024 count=4096 2>/dev/null || wc -c < /scratch/x"), func(j *JobConfig) {
			j.Mounts = []JobMount{{Type: "tmpfs", Target: "/scratch", Size: "1MiB"}}
		}), out: "1048576\n"},
		{name: "limits", job: with(sh("ulimit -n; ulimit -c"), func(j *JobConfig) { j.Ulimit = map[string]string{"nofile": "100:200"} }), out: "100\n0\n"},
		// gVisor itself needs some thirty, and ends when the host's kernel refuses it one for a process of the task's.
		{name: "processes", job: with(sh("for i in $(seq 300); do sleep 600 & done 2>/dev/null; echo started"), func(j *JobConfig) { j.PidsLimit = byKernel[int64](20, 150) }), code: 2},
		{name: "processes of a user", job: with(sh("for i in $(seq 40); do sleep 600 & done 2>/dev/null; echo started"), func(j *JobConfig) { j.Ulimit = map[string]string{"nproc": "10"} }), code: 2},
		{name: "space in /tmp as in the rest", job: with(sh("dd if=/dev/zero of=/tmp/x bs=1M count=80 2>/dev/null || echo full"), func(j *JobConfig) { j.DiskLimit = "64MiB" }), out: "full\n"},
		// Programs such as a Java virtual machine size themselves by this. gVisor tells its tasks by the machine's memory.
		{name: "its own limits and no others, to read", job: sh("cd /sys/fs/cgroup; " +
			byKernel("cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max", "awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo") +
			"; for d in x pids/x; do mkdir $d || echo refused; done; find . -name 'pangaea*' | wc -l"), out: fmt.Sprint(memoryMB()<<20) + "\nrefused\nrefused\n0\n"},
		{name: "out of memory", job: sh("exec dd if=/dev/zero of=/dev/null bs=200M count=1"), code: 137},
		{name: "mount is refused by the kernel", job: sh("mount -t tmpfs x /tmp || unshare -U true || echo refused"), out: "refused\n"},
		{name: "kernel files are masked", job: sh("cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sysrq-trigger || echo refused"), out: "0\n0\nrefused\n"},
		{name: "no node can be made", job: sh("mknod /tmp/x c 195 0 || echo refused"), out: "refused\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if w.refusedByGVisor(t, c.job, c.change, c.refused) {
				return
			}
			result := w.run(t, c.job, c.change, c.out)
			must.NoError(t, result.Err)
			if c.name == "killed by itself" {
				// The first process of a pid namespace can't kill itself: the kernel drops the signal.
				return
			}
			must.Eq(t, c.code, result.ExitCode)
			must.Eq(t, c.code == 137, result.OOMKilled)
		})
	}
}

func TestRootRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DiskLimit = "64MiB" })
	cases := []struct {
		name, text string
		job        JobConfig
		recover    bool
		change     func(*drivers.TaskConfig)
	}{
		{name: "no such image", job: JobConfig{Image: w.registry + "/none:1"}, text: "check the image's name and tag"},
		{name: "no such registry", job: JobConfig{Image: "127.0.0.1:1/none:1"}, text: "cannot pull image", recover: false},
		{name: "hostile image", job: JobConfig{Image: w.registry + "/hostile:1"}, text: "image refused"},
		{name: "no such program", job: JobConfig{Command: "/bin/nothing"}, text: "no such file"},
		{name: "host network", job: JobConfig{NetworkMode: "host"}, text: "allow_host_network"},
		{name: "host users", job: JobConfig{UsernsMode: "host"}, text: "allow_userns_host"},
		{name: "host path by volumes", job: JobConfig{Volumes: []string{"/etc:/x"}}, text: "allow_volumes"},
		{name: "host path by mount", job: JobConfig{Mounts: []JobMount{{Type: "bind", Source: "/etc", Target: "/x"}}}, text: "allow_volumes"},
		{name: "capability", job: JobConfig{CapAdd: []string{"sys_admin"}}, text: "allow_caps"},
		{name: "sysctl", job: JobConfig{Sysctl: map[string]string{"net.core.somaxconn": "1"}}, text: "allow_sysctls"},
		{name: "more processes than the operator allows", job: JobConfig{PidsLimit: 5000}, text: "allows 1 to 4096"},
		{name: "a larger disk than the operator gives", job: JobConfig{DiskLimit: "65MiB"}, text: "allows at most 64 MiB"},
		{name: "mount over /proc", job: JobConfig{Mounts: []JobMount{{Target: "/proc/sys"}}}, text: "belongs to the sandbox"},
		{name: "unclean directory", job: JobConfig{WorkDir: "/proc/self/fd/../9"}, text: "work_dir"},
		{name: "unknown user", job: sh("true"), change: func(c *drivers.TaskConfig) { c.User = "nobody-here" }, text: "no such user"},
		{name: "hosts entry with a newline", job: JobConfig{ExtraHosts: []string{"a:1.2.3.4\n6.6.6.6 registry"}}, text: "extra_hosts"},
		{name: "host name with a newline", job: JobConfig{Hostname: "a\nb"}, text: "hostname"},
		{name: "forged grant", job: sh("true"), change: func(c *drivers.TaskConfig) { c.DeviceEnv = map[string]string{"PANGAEA_GPU_all": "all"} }, text: "grant"},
		{name: "GPU without a driver", recover: true, job: sh("true"), change: func(c *drivers.TaskConfig) { c.DeviceEnv = map[string]string{"PANGAEA_GPU_GPU_a": "GPU-a"} }, text: "is it installed?"},
		{name: "NVIDIA node by another plugin", job: sh("true"), change: func(c *drivers.TaskConfig) {
			c.Devices = []*drivers.DeviceConfig{{TaskPath: "/dev/nvidia0", HostPath: "/dev/null", Permissions: "rwm"}}
		}, text: "device plugin only"},
		{name: "lease that the task could write", job: JobConfig{Lease: JobLease{File: "local/lease", TTL: "10s"}}, text: "does not see"},
		{name: "lease elsewhere", job: JobConfig{Lease: JobLease{File: "../lease", TTL: "10s"}}, text: "does not see"},
		{name: "lease without time", job: JobConfig{Lease: JobLease{File: "lease", TTL: "0s"}}, text: "at least"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.prepare(t, c.job, false)
			if c.change != nil {
				c.change(cfg)
			}
			_, _, err := w.harness.StartTask(cfg)
			must.ErrorContains(t, err, c.text)
			must.Eq(t, c.recover, structs.IsRecoverable(err), must.Sprint(err))
			left, globErr := filepath.Glob(filepath.Join(w.state, "tasks", "*"))
			must.NoError(t, globErr)
			must.SliceEmpty(t, left)
		})
	}
}

func TestRootStopAndSignal(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("trap 'echo hup' HUP; trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.05; done"))
	w.start(t, cfg)
	w.says(t, cfg, "ready\n")
	must.NoError(t, w.harness.SignalTask(cfg.ID, "SIGHUP"))
	must.ErrorContains(t, w.harness.SignalTask(cfg.ID, "SIGNOTHING"), "there is none")
	w.says(t, cfg, "ready\nhup\n")
	status, err := w.harness.InspectTask(cfg.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateRunning, status.State)
	must.ErrorContains(t, w.harness.DestroyTask(cfg.ID, false), "still running")

	must.NoError(t, w.harness.StopTask(cfg.ID, patience, "SIGTERM"))
	must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode)
	must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode, must.Sprint("a second wait must tell the same"))
	status, err = w.harness.InspectTask(cfg.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateExited, status.State)
	must.NoError(t, w.harness.DestroyTask(cfg.ID, false))
	must.NoError(t, w.harness.DestroyTask(cfg.ID, false), must.Sprint("destroying is idempotent"))
	must.NoError(t, w.harness.StopTask("unknown/task/00000000", time.Second, ""), must.Sprint("an unknown task is stopped"))
}

// A signal that only real-time programs know asks a task to end, by the name that images give it.
func TestRootStopByRealTimeSignal(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("trap 'exit 3' TERM; trap 'exit 5' 37; echo ready; while true; do sleep 0.05; done"))
	w.start(t, cfg)
	w.says(t, cfg, "ready\n")
	must.NoError(t, w.harness.StopTask(cfg.ID, patience, "SIGRTMIN+3"))
	if gvisor() {
		must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode)
		return
	}
	must.Eq(t, 5, w.wait(t, cfg.ID).ExitCode)
}

// gVisor takes no such signal, and does not kill the task for it either.
func TestRootRunscStopByRealTimeSignal(t *testing.T) {
	w := withGVisor(t, nil)
	job := sh("trap 'exit 3' TERM; echo ready; while true; do sleep 0.05; done")
	job.Runtime = "gvisor"
	cfg := roomy(w.task(t, job))
	events := w.events(t)
	w.start(t, cfg)
	w.says(t, cfg, "ready\n")
	must.NoError(t, w.harness.StopTask(cfg.ID, patience, "37"))
	must.Eq(t, 3, w.wait(t, cfg.ID).ExitCode)
	events.await(t, cfg.ID, "Stopping the task by SIGTERM: cannot send signal 37: gVisor takes no real-time signals")
}

func TestRootStopWhatDoesNotListen(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("trap '' TERM; echo deaf; while true; do sleep 1; done"))
	w.start(t, cfg)
	w.says(t, cfg, "deaf\n")
	must.NoError(t, w.harness.StopTask(cfg.ID, 100*time.Millisecond, ""))
	must.Eq(t, 9, w.wait(t, cfg.ID).Signal)
}

func TestRootRecover(t *testing.T) {
	w := newWorld(t, nil)
	running, ended := w.task(t, sh("echo one; until [ -e /local/on ]; do sleep 0.05; done; echo two; exit 5")), w.task(t, sh("exit 6"))
	handles := map[string]*drivers.TaskHandle{running.ID: w.start(t, running), ended.ID: w.start(t, ended)}
	must.Eq(t, 6, w.wait(t, ended.ID).ExitCode)
	w.restart(t)
	_, err := w.driver.WaitTask(context.Background(), running.ID)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound, must.Sprint("a new plugin knows no task yet"))
	for range 2 {
		for _, h := range handles {
			must.NoError(t, w.harness.RecoverTask(h))
		}
	}
	must.Eq(t, 6, w.wait(t, ended.ID).ExitCode, must.Sprint("an exit that nobody saw is kept"))
	must.NoError(t, os.WriteFile(filepath.Join(running.TaskDir().LocalDir, "on"), nil, 0o600))
	must.Eq(t, 5, w.wait(t, running.ID).ExitCode)
	w.says(t, running, "one\ntwo\n")

	must.Error(t, w.harness.RecoverTask(&drivers.TaskHandle{Version: handleVersion, Config: w.prepare(t, sh("true"), false)}))
	must.ErrorContains(t, w.harness.RecoverTask(&drivers.TaskHandle{Version: 99, Config: running}), "version 99")
}

// TestRootNeverTwo starts a task whose earlier copy a killed plugin left running unseen.
func TestRootNeverTwo(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("sleep 600"))
	w.start(t, cfg)
	first, ok := w.driver.task(cfg.ID)
	must.True(t, ok)
	w.restart(t)
	again := cfg.Copy()
	job := sh("exit 4")
	job.Image = w.registry + "/busybox:1"
	must.NoError(t, again.EncodeConcreteDriverConfig(&job))
	again.ID = cfg.AllocID + "/web/ffffffff"
	w.start(t, again)
	must.Eq(t, 4, w.wait(t, again.ID).ExitCode)
	_, err := os.Stat(first.dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestRootExec(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("sleep 600"))
	w.start(t, cfg)
	// Of Nomad's conformance tests the one of isolation wants to see the host's cgroup names, which a cgroup namespace hides.
	for _, c := range testutils.ExecTaskStreamingBasicCases {
		// Two of the others take a second for long enough, on whatever machine.
		switch c.Name {
		case "tty: stty check":
			c.Command = `until [ "$(stty size)" = "100 100" ]; do sleep 0.1; done; stty size`
		case "tty: children processes":
			c.Command = strings.ReplaceAll(c.Command, "sleep 3;", "sleep 600;")
		}
		t.Run(c.Name, func(t *testing.T) {
			code, stdout, stderr := w.execStreams(t, cfg.ID, c.Command, c.Tty, c.Stdin)
			must.Eq(t, c.ExitCode, code)
			isOutput(t, c.Stdout, stdout)
			isOutput(t, c.Stderr, stderr)
		})
	}

	result, err := w.harness.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 9"}, patience)
	must.NoError(t, err)
	must.Eq(t, 9, result.ExitResult.ExitCode)
	must.Eq(t, "out\n", string(result.Stdout))
	must.Eq(t, "err\n", string(result.Stderr))
	_, err = w.harness.ExecTask(cfg.ID, []string{"/bin/sleep", "60"}, 300*time.Millisecond)
	must.ErrorContains(t, err, "cannot finish within")
	_, err = w.harness.ExecTask("unknown", []string{"true"}, time.Second)
	must.ErrorContains(t, err, drivers.ErrTaskNotFound.Error())
}

// output is what an exec has written. Nomad's own test reads it from another goroutine, without waiting for that.
type output struct{ strings.Builder }

func (o *output) Close() error { return nil }

// execStreams runs a shell's command in a task as Nomad's client does for nomad alloc exec.
func (w *world) execStreams(t *testing.T, id, command string, tty bool, input string) (code int, stdout, stderr string) {
	t.Helper()
	stdin, typed := io.Pipe()
	defer typed.Close()
	sizes := make(chan drivers.TerminalSize, 2)
	if tty {
		sizes <- drivers.TerminalSize{Height: 50, Width: 40}
		sizes <- drivers.TerminalSize{Height: 100, Width: 100} // the latest counts
	}
	go func() {
		_, _ = io.WriteString(typed, input)
		if !tty { // a terminal would hang up
			_ = typed.Close()
		}
	}()
	var out, err output
	result, failure := w.driver.ExecTaskStreaming(t.Context(), id, &drivers.ExecOptions{
		Command: []string{"/bin/sh", "-c", command}, Tty: tty, Stdin: stdin, Stdout: &out, Stderr: &err, ResizeCh: sizes,
	})
	must.NoError(t, failure)
	return result.ExitCode, out.String(), err.String()
}

// isOutput compares with what Nomad's cases want: a text, an expression, or nothing.
func isOutput(t *testing.T, want any, got string) {
	t.Helper()
	switch want := want.(type) {
	case string:
		must.Eq(t, want, got)
	case *regexp.Regexp:
		must.RegexMatch(t, want, got)
	default:
		must.Nil(t, want)
		must.Eq(t, "", got)
	}
}

// TestRootExecOutlivesNoClient ends an exec whose client goes away while the program writes and writes: nobody takes its
// output any more, and nothing of it may stay.
func TestRootExecOutlivesNoClient(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("sleep 600"))
	w.start(t, cfg)
	for _, tty := range []bool{false, true} {
		stdin, _ := io.Pipe()
		reader, stdout := io.Pipe()
		_, stderr := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := w.driver.ExecTaskStreaming(ctx, cfg.ID, &drivers.ExecOptions{Command: []string{"/bin/yes"}, Tty: tty, Stdin: stdin, Stdout: stdout, Stderr: stderr})
			ended <- err
		}()
		_, err := io.ReadFull(reader, make([]byte, 64<<10))
		must.NoError(t, err)
		cancel()
		select {
		case err = <-ended:
			must.ErrorIs(t, err, context.Canceled)
		case <-time.After(patience):
			_ = reader.Close()
			t.Fatalf("the exec waits for a client that has gone, tty %v", tty)
		}
	}
}

func TestRootStats(t *testing.T) {
	w := newWorld(t, nil)
	job := sh("while true; do :; done")
	job.CPUHardLimit = true
	cfg := w.task(t, job)
	cfg.Resources.LinuxResources.PercentTicks = 0.1 / float64(hostCPUs())
	w.start(t, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ch, err := w.harness.TaskStats(ctx, cfg.ID, 300*time.Millisecond)
	must.NoError(t, err)
	first, second := <-ch, <-ch
	must.NotNil(t, first)
	must.NotNil(t, second)
	must.Positive(t, second.ResourceUsage.MemoryStats.Usage)
	// Between two looks the machine may have had no time for the task.
	for second != nil && (second.ResourceUsage.CpuStats.ThrottledPeriods == 0 || second.ResourceUsage.CpuStats.Percent == 0) {
		second = <-ch
	}
	must.NotNil(t, second, must.Sprint("a tenth of a core is not enough for an endless loop"))
	must.Positive(t, second.ResourceUsage.CpuStats.Percent)
	must.Positive(t, second.ResourceUsage.CpuStats.ThrottledTime)
	must.NoError(t, w.harness.StopTask(cfg.ID, 0, "SIGKILL"))
	for range ch { //nolint:revive // the stream has to end with the task
	}
	must.NoError(t, ctx.Err())
}

func TestRootLease(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, JobConfig{Command: "/bin/sleep", Args: []string{"600"}, Lease: JobLease{File: "lease", TTL: "2s"}})
	file := filepath.Join(cfg.TaskDir().Dir, "lease")
	must.NoError(t, os.WriteFile(file, []byte("1"), 0o600))
	w.start(t, cfg)
	must.NoError(t, os.WriteFile(file, []byte("2"), 0o600))
	result := w.wait(t, cfg.ID)
	must.ErrorContains(t, result.Err, "lease")
}

func TestRootStartTwice(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("sleep 600"))
	w.start(t, cfg)
	_, _, err := w.harness.StartTask(cfg)
	must.ErrorContains(t, err, "already started")
}
