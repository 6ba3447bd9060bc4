package driver

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/sandbox"
)

const (
	defaultCPUPeriod = 100_000 // microseconds, as are the bounds that the kernel sets to it
	minCPUPeriod     = 1_000
	maxCPUPeriod     = 1_000_000
	// noMemoryLimit is what memory_max = -1 in a job becomes.
	noMemoryLimit = -1
)

// rlimits reads limits like nofile = "1024:4096".
func rlimits(in map[string]string) (map[string]sandbox.Limit, error) {
	out := map[string]sandbox.Limit{}
	for name, text := range in {
		soft, hard, two := strings.Cut(text, ":")
		if !two {
			hard = soft
		}
		s, err := limitValue(soft)
		if err != nil {
			return nil, fmt.Errorf("cannot read ulimit %s = %q: %w", name, text, err)
		}
		h, err := limitValue(hard)
		if err != nil {
			return nil, fmt.Errorf("cannot read ulimit %s = %q: %w", name, text, err)
		}
		key := "RLIMIT_" + strings.TrimPrefix(strings.ToUpper(name), "RLIMIT_")
		if !slices.Contains(sandbox.RlimitNames(), key) {
			return nil, fmt.Errorf("cannot set ulimit %q: there is no such limit for tasks", name)
		}
		out[key] = sandbox.Limit{Soft: s, Hard: h}
	}
	return out, nil
}

func limitValue(text string) (uint64, error) {
	if text == "unlimited" || text == "-1" {
		return ^uint64(0), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("write a number, soft:hard, or unlimited")
	}
	return n, nil
}

// resources are Nomad's, with the operator's bound on processes.
func resources(cfg *drivers.TaskConfig, job *JobConfig, s *settings, h *sandbox.Host) (sandbox.Resources, error) { //nolint:cyclop // one short step after another
	r := sandbox.Resources{Pids: s.pids}
	if job.PidsLimit < 0 || job.PidsLimit > s.pids {
		return r, fmt.Errorf("cannot set pids_limit to %d: this host's operator allows 1 to %d", job.PidsLimit, s.pids)
	}
	if job.PidsLimit > 0 {
		r.Pids = job.PidsLimit
	}
	if cfg.Resources == nil || cfg.Resources.LinuxResources == nil {
		return r, errors.New("internal error: Nomad handed over no resources")
	}
	l := cfg.Resources.LinuxResources
	r.CPUShares = l.CPUShares
	if h.CgroupV2 {
		// On v1 the cores are in the cpuset that Nomad made: reserveCores.
		r.Cpus = l.CpusetCpus
	}
	if job.CPUPeriod != 0 && (job.CPUPeriod < minCPUPeriod || job.CPUPeriod > maxCPUPeriod) {
		return r, fmt.Errorf("cannot set cpu_cfs_period to %d: it is of %d to %d microseconds", job.CPUPeriod, minCPUPeriod, maxCPUPeriod)
	}
	if job.CPUHardLimit && l.PercentTicks > 0 {
		r.CPUPeriod = defaultCPUPeriod
		if job.CPUPeriod != 0 {
			r.CPUPeriod = job.CPUPeriod
		}
		r.CPUQuota = max(minCPUPeriod, int64(l.PercentTicks*float64(r.CPUPeriod)*float64(hostCPUs())))
	}
	return r, memory(&r, cfg, job, h)
}

// diskBytes bounds the task's writable layer: as the job says, else as the operator does. 0 is no bound.
func diskBytes(job *JobConfig, s *settings) (int64, error) {
	asked, err := parseSize(job.DiskLimit)
	if err != nil {
		return 0, fmt.Errorf("cannot use disk_limit: %w", err)
	}
	if s.diskLimit > 0 && asked > s.diskLimit {
		return 0, fmt.Errorf("cannot set disk_limit to %q: this host's operator allows at most %s; write less, or leave it out to have that",
			job.DiskLimit, humanize.IBytes(uint64(s.diskLimit)))
	}
	return cmp.Or(asked, s.diskLimit), nil
}

// memory is Nomad's limit and reservation. With memory_max = -1, which rules.go has judged, the limit is all that the
// host has: a task without one would also have memory file systems and a /dev/shm without one.
func memory(r *sandbox.Resources, cfg *drivers.TaskConfig, job *JobConfig, h *sandbox.Host) error {
	r.MemoryBytes = cfg.Resources.LinuxResources.MemoryLimitBytes
	if n := cfg.Resources.NomadResources; n != nil {
		r.MemoryReservation = n.Memory.MemoryMB << 20
		switch {
		case n.Memory.MemoryMaxMB == noMemoryLimit:
			r.MemoryBytes = h.MemoryBytes
		case r.MemoryBytes == 0:
			r.MemoryBytes = max(n.Memory.MemoryMB, n.Memory.MemoryMaxMB) << 20
		}
	}
	swap, err := parseSize(job.MemorySwap)
	if err != nil {
		return fmt.Errorf("cannot use memory_swap: %w", err)
	}
	if swap != 0 && swap < r.MemoryBytes {
		return fmt.Errorf("cannot use memory_swap %q: it is memory and swap together, so at least the task's %d bytes of memory", job.MemorySwap, r.MemoryBytes)
	}
	r.MemorySwapBytes = swap
	if job.Swappiness == nil {
		return nil
	}
	if h.CgroupV2 || *job.Swappiness < 0 || *job.Swappiness > 100 {
		return errors.New("cannot use memory_swappiness: it is 0 to 100, and cgroup v2 has no such setting for a task")
	}
	percent := uint64(*job.Swappiness)
	r.Swappiness = &percent
	return nil
}
