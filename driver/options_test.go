package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// fuse stands for any device that an operator allows: one that the kernel opens for anybody.
const fuse = "/dev/fuse"

// TestRootOptions has a row for each option of a job that needs the kernel to show.
func TestRootOptions(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.AllowDevices, c.AllowSwap, c.AllowUnlimitedMemory = []string{fuse}, true, true
	})
	with := func(script string, change func(*JobConfig)) JobConfig { job := sh(script); change(&job); return job }
	cases := []struct {
		name   string
		job    JobConfig
		change func(*drivers.TaskConfig)
		out    string
		// refused is why gVisor's tasks can't have it, if they can't.
		refused string
	}{
		// Linux sorts them, gVisor leaves them as they are.
		{name: "groups by name and number", job: with("id -G", func(j *JobConfig) { j.GroupAdd = []string{"extra", "77"} }), out: byKernel("0 77 1002\n", "0 1002 77\n")},
		{name: "safe sysctl without the operator's word", job: with("cat /proc/sys/net/ipv4/tcp_fin_timeout /proc/sys/kernel/shm_rmid_forced", func(j *JobConfig) {
			j.Sysctl = map[string]string{"net.ipv4.tcp_fin_timeout": "17", "kernel/shm_rmid_forced": "1"}
		}), out: "17\n1\n", refused: "gVisor has kernel settings of its own"},
		{name: "shared memory of a size", job: with("dd if=/dev/zero of=/dev/shm/x bs=1024 count=4096 2>/dev/null || wc -c < /dev/shm/x", func(j *JobConfig) { j.ShmSize = "1MiB" }), out: "1048576\n"},
		{name: "a limit above the host's is the host's", job: with("ulimit -Hl", func(j *JobConfig) { j.Ulimit = map[string]string{"memlock": "unlimited"} }), out: kilobytes(readHost().Rlimits["RLIMIT_MEMLOCK"].Hard) + "\n"},
		{name: "a device that the operator allows", job: with("stat -c '%a %t:%T' /dev/own; exec 3<>/dev/own && echo open", func(j *JobConfig) {
			j.Devices = []JobDevice{{HostPath: fuse, Path: "/dev/own"}}
		}), out: "666 a:e5\nopen\n", refused: "gVisor passes on no devices but NVIDIA GPUs"},
		{name: "a device for reading only", job: with("exec 3</dev/own && echo open; (exec 3<>/dev/own) 2>/dev/null || echo refused", func(j *JobConfig) {
			j.Devices = []JobDevice{{HostPath: fuse, Path: "/dev/own", Permissions: "r"}}
		}), out: "open\nrefused\n", refused: "gVisor passes on no devices but NVIDIA GPUs"},
		{name: "name servers of the task's own", job: with("cat /etc/resolv.conf", func(j *JobConfig) {
			j.DNSServers, j.DNSSearches, j.DNSOptions = []string{"192.0.2.5"}, []string{"own.example"}, []string{"ndots:2"}
		}), change: func(c *drivers.TaskConfig) { c.DNS = &drivers.DNSConfig{Servers: []string{"192.0.2.6"}} }, out: "nameserver 192.0.2.5\nsearch own.example\noptions ndots:2\n"},
		{name: "name servers of the group", job: sh("cat /etc/resolv.conf"), change: func(c *drivers.TaskConfig) { c.DNS = &drivers.DNSConfig{Servers: []string{"192.0.2.6"}} }, out: "nameserver 192.0.2.6\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if w.refusedByGVisor(t, c.job, c.change, c.refused) {
				return
			}
			result := w.run(t, c.job, c.change, c.out)
			must.NoError(t, result.Err)
		})
	}
}

// TestRootOOMScoreAdj has the host's kernel prefer a task when memory is short. gVisor's own, which the task sees, knows
// nothing of that.
func TestRootOOMScoreAdj(t *testing.T) {
	w := newWorld(t, nil)
	job := sh("cat /proc/self/oom_score_adj; sleep 600")
	job.OOMScoreAdj = 900
	cfg := w.task(t, job)
	w.start(t, cfg)
	w.says(t, cfg, byKernel("900\n", "0\n"))
	h, ok := w.driver.task(cfg.ID)
	must.True(t, ok)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", h.task.Pid()))
	must.NoError(t, err)
	must.Eq(t, "900\n", string(text))
}

func TestRootOptionsRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowDevices = []string{fuse, "/dev/null"} })
	percent := int64(1)
	cases := []struct {
		name, text string
		job        JobConfig
		change     func(*drivers.TaskConfig)
	}{
		{name: "privileged", job: JobConfig{Privileged: true}, text: "owns its host"},
		{name: "the host's processes", job: JobConfig{PIDMode: "host"}, text: "signals other tenants' processes"},
		{name: "the host's memory segments", job: JobConfig{IPCMode: "host"}, text: "shm_size"},
		{name: "the host's name", job: JobConfig{UTSMode: "host"}, text: "hostname names the task's own"},
		{name: "the host's cgroups", job: JobConfig{CgroupNS: "host"}, text: "cgroupns"},
		{name: "port map", job: JobConfig{PortMap: map[string]int{"http": 80}}, text: "network block"},
		{name: "unknown port", job: JobConfig{Ports: []string{"http"}}, text: "none of that label"},
		{name: "port without a network", job: JobConfig{Ports: []string{"http"}}, change: func(c *drivers.TaskConfig) {
			c.Resources.Ports = &structs.AllocatedPorts{{Label: "http", Value: 2000, To: 80}}
		}, text: "a network of its own"},
		{name: "seccomp profile", job: JobConfig{SeccompProfile: "own"}, text: "allow_seccomp_profiles"},
		{name: "check of a kind that there is not", job: JobConfig{Health: JobHealth{Test: []string{"/bin/check"}}}, text: "CMD-SHELL"},
		{name: "swap", job: JobConfig{MemorySwap: "1GiB"}, text: "allow_swap"},
		{name: "swappiness", job: JobConfig{Swappiness: &percent}, text: "allow_swap"},
		{name: "all the host's memory", change: func(c *drivers.TaskConfig) { c.Resources.NomadResources.Memory.MemoryMaxMB = -1 }, text: "allow_unlimited_memory"},
		{name: "protected from the OOM killer", job: JobConfig{OOMScoreAdj: -1}, text: "oom_score_adj is 0 to 1000"},
		{name: "unknown group", job: JobConfig{GroupAdd: []string{"wheel"}}, text: "no such group"},
		{name: "group outside the sandbox", job: JobConfig{GroupAdd: []string{"70000"}}, text: "outside the sandbox"},
		{name: "sysctl that harms", job: JobConfig{Sysctl: map[string]string{"net.ipv4.ip_forward": "1"}}, text: "allow_sysctls"},
		{name: "device", job: JobConfig{Devices: []JobDevice{{HostPath: "/dev/kmsg"}}}, text: "allow_devices"},
		{name: "device by a crooked path", job: JobConfig{Devices: []JobDevice{{HostPath: "/dev/../dev/null"}}}, text: "allow_devices"},
		{name: "device over one of the sandbox's", job: JobConfig{Devices: []JobDevice{{HostPath: fuse, Path: "/dev/null"}}}, text: "not a place for a device"},
		{name: "device outside /dev", job: JobConfig{Devices: []JobDevice{{HostPath: fuse, Path: "/etc/x"}}}, text: "not a place for a device"},
		{name: "strange access", job: JobConfig{Devices: []JobDevice{{HostPath: fuse, Permissions: "x"}}}, text: "has access"},
		{name: "short period", job: JobConfig{CPUPeriod: 10}, text: "1000 to 1000000"},
		{name: "mounts that would show on the host", change: func(c *drivers.TaskConfig) {
			c.Mounts = []*drivers.MountConfig{{HostPath: "/etc", TaskPath: "/x", PropagationMode: "bidirectional"}}
		}, text: "mounts nothing on its host"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.prepare(t, c.job, false)
			if c.change != nil {
				c.change(cfg)
			}
			_, _, err := w.harness.StartTask(cfg)
			must.ErrorContains(t, err, c.text)
			left, globErr := filepath.Glob(filepath.Join(w.state, "tasks", "*"))
			must.NoError(t, globErr)
			must.SliceEmpty(t, left)
		})
	}
}

// TestRootPropagation mounts on the host below a volume of a running task.
func TestRootPropagation(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ mode, want string }{{"", "nothing\n"}, {"private", "nothing\n"}, {"host-to-task", "mounted\n"}} {
		t.Run("mode "+c.mode, func(t *testing.T) {
			volume, err := os.MkdirTemp(filepath.Join(w.state, "tmp"), "volume-")
			must.NoError(t, err)
			must.NoError(t, unix.Mount(volume, volume, "", unix.MS_BIND, ""))
			t.Cleanup(func() { must.NoError(t, unix.Unmount(volume, unix.MNT_DETACH)) })
			must.NoError(t, unix.Mount("", volume, "", unix.MS_SHARED, ""))
			later := filepath.Join(volume, "later")
			must.NoError(t, os.Mkdir(later, 0o755))
			cfg := w.task(t, sh("while [ ! -e /local/go ]; do sleep 0.05; done; if [ -e /vol/later/file ]; then echo mounted; else echo nothing; fi"))
			cfg.Mounts = []*drivers.MountConfig{{HostPath: volume, TaskPath: "/vol", PropagationMode: c.mode}}
			w.start(t, cfg)
			must.NoError(t, unix.Mount("tmpfs", later, "tmpfs", 0, ""))
			t.Cleanup(func() { must.NoError(t, unix.Unmount(later, unix.MNT_DETACH)) })
			must.NoError(t, os.WriteFile(filepath.Join(later, "file"), nil, 0o644))
			must.NoError(t, os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "go"), nil, 0o644))
			w.says(t, cfg, c.want)
		})
	}
}

// TestRootLogsDisabled shows that nothing is written to Nomad's log collector, which runs all the same.
func TestRootLogsDisabled(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DisableLogCollection = true })
	for _, tty := range []bool{false, true} {
		job := sh("echo secret; echo done > /local/done")
		job.TTY = tty
		cfg := w.prepare(t, job, false)
		// This test is the log collector, so that it sees all that comes when it comes.
		var readers []int
		for _, path := range []*string{&cfg.StdoutPath, &cfg.StderrPath} {
			*path = filepath.Join(cfg.TaskDir().LogDir, fmt.Sprintf(".web.%d.fifo", len(readers)))
			must.NoError(t, unix.Mkfifo(*path, 0o600))
			reader, err := unix.Open(*path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			must.NoError(t, err)
			t.Cleanup(func() { _ = unix.Close(reader) })
			readers = append(readers, reader)
		}
		w.start(t, cfg)
		must.Eq(t, 0, w.wait(t, cfg.ID).ExitCode)
		must.FileExists(t, filepath.Join(cfg.TaskDir().LocalDir, "done"))
		// The shim has passed on all that it ever will.
		must.NoError(t, w.harness.DestroyTask(cfg.ID, true))
		for _, reader := range readers {
			_, err := unix.Read(reader, make([]byte, 16))
			must.ErrorIs(t, err, unix.EAGAIN)
		}
	}
}

func TestLabels(t *testing.T) {
	cfg := &drivers.TaskConfig{AllocID: "a1", JobName: "job", JobID: "job-id", Name: "web", TaskGroupName: "group", Namespace: "default"}
	job := &JobConfig{Labels: map[string]string{"team": "red", "com.hashicorp.nomad.alloc_id": "another", "com.hashicorp.nomad.job_id": "another"}}
	cases := []struct {
		name  string
		extra []string
		want  map[string]string
	}{
		{"the job's, and always the allocation", nil, map[string]string{"team": "red", "com.hashicorp.nomad.alloc_id": "a1"}},
		{"by name", []string{"job_id"}, map[string]string{"team": "red", "com.hashicorp.nomad.alloc_id": "a1", "com.hashicorp.nomad.job_id": "job-id"}},
		{"by pattern", []string{"task*"}, map[string]string{
			"team": "red", "com.hashicorp.nomad.alloc_id": "a1", "com.hashicorp.nomad.task_name": "web", "com.hashicorp.nomad.task_group_name": "group",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { must.Eq(t, c.want, labels(cfg, job, newSettings(Config{ExtraLabels: c.extra}))) })
	}
	must.Eq(t, "another", job.Labels["com.hashicorp.nomad.job_id"], must.Sprint("the job's own map stays as it is"))
}

// kilobytes is how a shell's ulimit writes a limit of bytes.
func kilobytes(bytes uint64) string {
	if bytes == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(bytes/1024, 10)
}
