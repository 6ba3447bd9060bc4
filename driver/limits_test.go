package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/opencontainers/cgroups"
	"github.com/shoenig/test/must"
)

// TestRootLimits looks at the task's cgroups, since the task can't see all of them. Files of cgroup v1 have their
// controller before them.
func TestRootLimits(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowSwap, c.AllowUnlimitedMemory = true, true })
	percent := int64(7)
	const mb = 1 << 20
	memory := memoryMB()
	swap := fmt.Sprintf("%dMiB", memory+32)
	all := strconv.FormatInt(readHost().MemoryBytes, 10)
	quota := strconv.Itoa(50_000 / 4 * hostCPUs())
	cases := []struct {
		name   string
		job    JobConfig
		change func(*drivers.Resources)
		v1, v2 map[string]string // v2 is nil if it has no such limit
	}{
		{"memory", JobConfig{}, nil, map[string]string{
			"memory/memory.limit_in_bytes": fmt.Sprint(memory * mb), "memory/memory.memsw.limit_in_bytes": fmt.Sprint(memory * mb),
		}, map[string]string{"memory.max": fmt.Sprint(memory * mb), "memory.swap.max": "0", "memory.high": "max", "memory.low": "0"}},
		{"swap", JobConfig{MemorySwap: swap}, nil, map[string]string{
			"memory/memory.limit_in_bytes": fmt.Sprint(memory * mb), "memory/memory.memsw.limit_in_bytes": fmt.Sprint((memory + 32) * mb),
		}, map[string]string{"memory.max": fmt.Sprint(memory * mb), "memory.swap.max": fmt.Sprint(32 * mb)}},
		{"swappiness", JobConfig{MemorySwap: swap, Swappiness: &percent}, nil, map[string]string{"memory/memory.swappiness": "7"}, nil},
		{"no limit of memory", JobConfig{}, func(r *drivers.Resources) { r.NomadResources.Memory.MemoryMaxMB = noMemoryLimit }, map[string]string{
			"memory/memory.limit_in_bytes": all, "memory/memory.soft_limit_in_bytes": fmt.Sprint(memory * mb),
		}, map[string]string{"memory.max": all, "memory.swap.max": "0", "memory.low": fmt.Sprint(memory * mb)}},
		{"share of the processors", JobConfig{}, nil, map[string]string{"cpu/cpu.shares": "100", "cpu/cpu.cfs_quota_us": "-1"}, map[string]string{
			"cpu.weight": fmt.Sprint(cgroups.ConvertCPUSharesToCgroupV2Value(100)), "cpu.max": "max 100000", "cpuset.cpus": "",
		}},
		{"no more than its share", JobConfig{CPUHardLimit: true, CPUPeriod: 50_000}, func(r *drivers.Resources) { r.LinuxResources.PercentTicks = 0.25 }, map[string]string{
			"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "50000",
		}, map[string]string{"cpu.max": quota + " 50000"}},
		{"processes", JobConfig{PidsLimit: 333}, nil, map[string]string{"pids/pids.max": "333"}, map[string]string{"pids.max": "333"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			job := c.job
			job.Command, job.Args = "/bin/sleep", []string{"1000"}
			want := c.v1
			if cgroupV2() {
				want = c.v2
			}
			cfg := w.prepare(t, job, want != nil)
			if c.change != nil {
				c.change(cfg.Resources)
			}
			if want == nil {
				_, _, err := w.harness.StartTask(cfg)
				must.ErrorContains(t, err, "cgroup v2 has no such setting")
				return
			}
			w.start(t, cfg)
			got := map[string]string{}
			for file := range want {
				got[file] = w.limit(t, cfg, file)
			}
			must.Eq(t, want, got)
		})
	}
}

// limit reads a file of a task's cgroup.
func (w *world) limit(t *testing.T, cfg *drivers.TaskConfig, file string) string {
	t.Helper()
	path := filepath.Join(cfg.Resources.LinuxResources.CpusetCgroupPath, file)
	if !cgroupV2() {
		path = filepath.Join("/sys/fs/cgroup", filepath.Dir(file), w.parent, cfg.AllocID+".web", filepath.Base(file))
	}
	text, err := os.ReadFile(path)
	must.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// TestRootCores runs a task on the core that Nomad reserved for it.
func TestRootCores(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh(byKernel("grep Cpus_allowed_list /proc/self/status", "/bin/busybox nproc")))
	cfg.Resources.LinuxResources.CpusetCpus = "1"
	if !cgroupV2() {
		// As Nomad's client does it: the task's own cpuset has memory nodes and no cores yet.
		reserved := filepath.Join("/sys/fs/cgroup/cpuset", w.parent, "reserve")
		own := filepath.Join(reserved, cfg.AllocID+".web")
		for _, dir := range []string{reserved, own} {
			must.NoError(t, os.Mkdir(dir, 0o755))
			t.Cleanup(func() { must.NoError(t, removeCgroup(dir)) })
			must.NoError(t, os.WriteFile(filepath.Join(dir, "cpuset.mems"), []byte("0"), 0))
		}
		must.NoError(t, os.WriteFile(filepath.Join(reserved, "cpuset.cpus"), []byte("1"), 0))
		cfg.Resources.LinuxResources.CpusetCgroupPath = own
	}
	w.start(t, cfg)
	must.Eq(t, 0, w.wait(t, cfg.ID).ExitCode)
	w.says(t, cfg, byKernel("Cpus_allowed_list:\t1\n", "1\n"))
	text, err := os.ReadFile(filepath.Join(cfg.Resources.LinuxResources.CpusetCgroupPath, "cpuset.cpus"))
	must.NoError(t, err)
	must.Eq(t, "1\n", string(text))
}

func TestDiskBytes(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		job, operator string
		want          int64
		refused       string
	}{
		{"", "", 0, ""},
		{"8MiB", "", 8 * mib, ""},
		{"", "16MiB", 16 * mib, ""},
		{"8MiB", "16MiB", 8 * mib, ""},
		{"16MiB", "16MiB", 16 * mib, ""},
		{"17MiB", "16MiB", 0, `cannot set disk_limit to "17MiB": this host's operator allows at most 16 MiB`},
		{"many", "16MiB", 0, "write it like 64MiB"},
	} {
		got, err := diskBytes(&JobConfig{DiskLimit: c.job}, newSettings(Config{DiskLimit: c.operator}))
		must.Eq(t, c.want, got)
		if c.refused == "" {
			must.NoError(t, err)
			continue
		}
		must.ErrorContains(t, err, c.refused)
	}
}
