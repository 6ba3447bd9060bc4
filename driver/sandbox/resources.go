package sandbox

import "github.com/opencontainers/runtime-spec/specs-go"

// The weights that the kernel takes. Nomad counts in MHz, of which a large host has more.
const (
	minShares = 2
	maxShares = 1 << 18
)

func applyResources(s *specs.Spec, t *Task, _ *Host) error {
	r := t.Resources
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &r.Pids}
	// Memory and swap together have the limit of memory alone, unless more was allowed: nothing of a task is swapped.
	swap := max(r.MemoryBytes, r.MemorySwapBytes)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &r.MemoryBytes, Swap: &swap, Swappiness: r.Swappiness}
	if r.MemoryReservation > 0 && r.MemoryReservation < r.MemoryBytes {
		s.Linux.Resources.Memory.Reservation = &r.MemoryReservation
	}
	shares := uint64(min(max(minShares, r.CPUShares), maxShares))
	cpu := &specs.LinuxCPU{Shares: &shares, Cpus: r.Cpus}
	if r.CPUQuota > 0 && r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		cpu.Quota, cpu.Period = &r.CPUQuota, &period
	}
	s.Linux.Resources.CPU = cpu
	return nil
}
