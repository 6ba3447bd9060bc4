package sandbox

import (
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	defaultShm = 64 << 20
	tmpMode    = 0o1777
)

// applyMounts lists what the sandbox mounts, in order. Nothing in it comes from the image: an image that chooses what
// is mounted, or what a mask is made of, was the door of CVE-2025-31133, 2025-52565 and 2026-41579.
func applyMounts(s *specs.Spec, t *Task, _ *Host) error {
	s.Mounts = kernelMounts(t)
	if !covers(t, "/tmp") && t.ReadonlyRootfs {
		s.Mounts = append(s.Mounts, tmpfs(Tmpfs{Target: "/tmp"}, t))
	}
	for _, m := range t.Tmpfs {
		s.Mounts = append(s.Mounts, tmpfs(m, t))
	}
	for _, b := range t.Binds {
		s.Mounts = append(s.Mounts, bind(b, t))
	}
	if t.Init != "" {
		s.Mounts = append(s.Mounts, bind(Bind{Source: t.Init, Target: initPlace, ReadOnly: true}, t))
	}
	if t.GPUs.Driver != "" {
		s.Mounts = append(s.Mounts, bind(Bind{Source: t.GPUs.Driver, Target: "/usr/local/nvidia", ReadOnly: true}, t))
	}
	return nil
}

func kernelMounts(t *Task) []specs.Mount {
	shm := t.ShmBytes
	if shm <= 0 {
		shm = defaultShm
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sysfs(t),
		// Here a Java virtual machine, and much else that sizes itself, looks for the task's limits.
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

// sysfs shows the interfaces of the network namespace that it is mounted in, and the kernel lets only that
// namespace's owner mount it. A task that joins a namespace therefore gets a sysfs that was mounted for it.
func sysfs(t *Task) specs.Mount {
	options := []string{"nosuid", "noexec", "nodev", "ro"}
	if t.Sysfs != "" {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: t.Sysfs, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: options}
}

func bind(b Bind, t *Task) specs.Mount {
	propagation := b.Propagation
	if propagation == "" {
		propagation = "rprivate"
	}
	options := []string{"rbind", propagation, "rw", "nosuid", "nodev"}
	if b.ReadOnly {
		// The second says it of what the host has mounted further down, too: the first leaves that writable.
		options = []string{"rbind", propagation, "ro", "rro", "nosuid", "nodev"}
	}
	m := specs.Mount{Destination: b.Target, Type: "bind", Source: b.Source, Options: options}
	if b.Mapped && !t.HostUsers {
		m.Options = append(m.Options, "idmap")
		m.UIDMappings, m.GIDMappings = idMapping(t), idMapping(t)
	}
	return m
}

func tmpfs(m Tmpfs, t *Task) specs.Mount {
	size, mode := m.SizeBytes, m.Mode
	if size <= 0 {
		// What lies in it counts as the task's memory, so the limit of that is also the limit of this.
		size = t.Resources.MemoryBytes
	}
	if mode == 0 {
		mode = tmpMode
	}
	return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: []string{
		"nosuid", "nodev", fmt.Sprintf("mode=%o", mode), "size=" + strconv.FormatInt(size, 10),
	}}
}

func covers(t *Task, place string) bool {
	for _, m := range t.Tmpfs {
		if m.Target == place {
			return true
		}
	}
	for _, b := range t.Binds {
		if b.Target == place {
			return true
		}
	}
	return false
}

// applyPaths hides kernel files that tell about the host, or that other tenants could be watched through, and makes
// the rest of what is dangerous unwritable. The list is Moby's of 2026, NVIDIA's own directory, and
// what e2e/escape could still read.
func applyPaths(s *specs.Spec, t *Task, h *Host) error {
	s.Linux.MaskedPaths = append(MaskedPaths(), h.MaskedPaths...)
	s.Linux.ReadonlyPaths = ReadonlyPaths()
	if !h.CgroupV2 {
		// The directory of the hierarchies, which libcontainer leaves writable.
		s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/sys/fs/cgroup")
	}
	if t.GPUs.Visible == "" {
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/driver/nvidia")
		return nil
	}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, t.GPUs.Masked...)
	return nil
}

// MaskedPaths are the kernel files that no task sees.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
		// As readable on any host, and as telling of where things lie in the machine's memory, as what /sys/firmware has.
		"/sys/kernel/boot_params", "/sys/kernel/vmcoreinfo",
	}
}

// ReadonlyPaths are the kernel files that no task writes.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
