package sandbox

import "github.com/opencontainers/runtime-spec/specs-go"

// minShares is the least weight that the kernel takes.
const minShares = 2

func applyResources(s *specs.Spec, t *Task, _ *Host) error {
	r := t.Resources
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &r.Pids}
	// Memory and swap together have the limit of memory alone: nothing of a task is swapped.
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &r.MemoryBytes, Swap: &r.MemoryBytes}
	if r.MemoryReservation > 0 && r.MemoryReservation < r.MemoryBytes {
		s.Linux.Resources.Memory.Reservation = &r.MemoryReservation
	}
	shares := uint64(max(minShares, r.CPUShares))
	cpu := &specs.LinuxCPU{Shares: &shares, Cpus: r.Cpus}
	if r.CPUQuota > 0 && r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		cpu.Quota, cpu.Period = &r.CPUQuota, &period
	}
	s.Linux.Resources.CPU = cpu
	return nil
}
