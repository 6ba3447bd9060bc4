package supervisor

import (
	"fmt"
	"math"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// Stats measures the sandbox.
func (t *Task) Stats() (Stats, error) {
	if t.ended() {
		return Stats{}, ErrNotRunning
	}
	paths := map[string]string{}
	if t.group.Unified() {
		paths[""] = t.group.Dir("")
	} else {
		for _, controller := range []string{"cpu", "cpuacct", "memory", "pids"} {
			paths[controller] = t.group.Dir(controller)
		}
	}
	reader, err := manager.NewWithPaths(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, paths)
	if err != nil {
		return Stats{}, fmt.Errorf("cannot read the task's cgroups: %w", err)
	}
	raw, err := reader.GetStats()
	if err != nil {
		return Stats{}, fmt.Errorf("cannot measure the task: %w", err)
	}
	return t.convert(raw), nil
}

func (t *Task) convert(raw *cgroups.Stats) Stats {
	cpu, memory := raw.CpuStats, raw.MemoryStats
	s := Stats{
		At:       time.Now(),
		CPUTotal: cpu.CpuUsage.TotalUsage, CPUUser: cpu.CpuUsage.UsageInUsermode, CPUSystem: cpu.CpuUsage.UsageInKernelmode,
		ThrottledPeriods: cpu.ThrottlingData.ThrottledPeriods, ThrottledTime: cpu.ThrottlingData.ThrottledTime,
		MemoryUsage: memory.Usage.Usage, MemoryMaxUsage: memory.Usage.MaxUsage, MemoryLimit: limit(memory.Usage.Limit),
		KernelUsage: memory.KernelUsage.Usage, Pids: raw.PidsStats.Current,
	}
	if t.group.Unified() {
		s.MemoryRSS, s.MemoryCache = memory.Stats["anon"], memory.Stats["file"]
		s.MappedFile, s.MemorySwap = memory.Stats["file_mapped"], memory.SwapUsage.Usage
		s.KernelUsage = memory.Stats["kernel"]
		return s
	}
	s.MemoryRSS, s.MemoryCache = memory.Stats["total_rss"], memory.Stats["total_cache"]
	s.MappedFile, s.MemorySwap = memory.Stats["total_mapped_file"], memory.Stats["total_swap"]
	return s
}

// limit turns cgroup v1's "no limit", the largest multiple of a page, and v2's into 0.
func limit(bytes uint64) uint64 {
	const page = 4096
	if bytes >= math.MaxInt64/page*page {
		return 0
	}
	return bytes
}
