package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelFiles are attempts to read and write what the kernel shows as files: of itself, of the host, of cgroups.
func kernelFiles() []attempt {
	var list []attempt
	for _, pattern := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/ns_last_pid",
		"/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/drop_caches", "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/file-max",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/mtrr", "/proc/irq/default_smp_affinity",
		"/proc/irq/*/smp_affinity", "/proc/bus/pci/*/*", "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/kernel/rcu_expedited", "/sys/power/state", "/sys/block/*/queue/scheduler", "/sys/bus/*/drivers_probe",
		"/sys/class/net/*/mtu", "/sys/module/*/parameters/*", "/sys/devices/system/cpu/cpu*/online",
		"/sys/fs/cgroup/*/release_agent", "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/*/cgroup.procs",
		"/sys/fs/cgroup/*/notify_on_release", "/sys/fs/cgroup/cgroup.procs",
	} {
		list = append(list, attempt{"write " + pattern, func() error { return writable(pattern) }})
	}
	for _, pattern := range []string{
		"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts", "/proc/kpage*", "/proc/slabinfo",
		"/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/acpi/*", "/proc/scsi/*", "/proc/latency_stats", "/sys/firmware/*/*",
		"/sys/firmware/*/*/*", "/sys/kernel/vmcoreinfo", "/sys/kernel/boot_params/data", "/sys/kernel/debug/*",
		"/sys/devices/virtual/powercap/*", "/sys/class/dmi/id/product_uuid",
	} {
		list = append(list, attempt{"read " + pattern, func() error { return readable(pattern) }})
	}
	return append(list, []attempt{
		{"open /proc/kmsg", func() error { _, err := unix.Open("/proc/kmsg", unix.O_RDONLY|unix.O_CLOEXEC, 0); return err }},
		{"read the kernel's addresses", func() error { return shows("/proc/kallsyms", address) }},
		{"read the machine's addresses", func() error { return shows("/proc/iomem", address) }},
		{"write anything below /proc/sys", func() error { return walk("/proc/sys", unix.O_WRONLY, regular) }},
		{"write anything below /proc", func() error { return walk("/proc", unix.O_WRONLY, kernels) }},
		{"write anything below /sys", func() error { return walk("/sys", unix.O_WRONLY, regular) }},
	}...)
}

func regular(_ string, d fs.DirEntry) bool { return d.Type().IsRegular() }

// kernels are not processes' own files, nor what belongs to the task alone by the kernel's own rules: what waits for
// pressure on processors and memory, by a write that names a threshold.
func kernels(path string, d fs.DirEntry) bool {
	top, _, _ := strings.Cut(strings.TrimPrefix(path, "/proc/"), "/")
	return d.Type().IsRegular() && strings.Trim(top, "0123456789") != "" && !strings.HasSuffix(top, "self") && top != "sys" && top != "pressure"
}

// opened tries all files that a pattern names until one opens and is as wanted.
func opened(pattern string, flags int, wanted func(fd int) error) error {
	paths, err := filepath.Glob(pattern)
	err = errors.Join(err, unix.ENOENT)
	for _, path := range paths {
		var fd int
		fd, err = unix.Open(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = wanted(fd)
			_ = unix.Close(fd)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// writable opens files for writing, and writes nothing.
func writable(pattern string) error {
	return opened(pattern, unix.O_WRONLY, func(int) error { return nil })
}

// readable reads the beginning of files, until there is something in one besides zeros.
func readable(pattern string) error {
	return shows(pattern, func(text string) string { return strings.Trim(text, "\x00") })
}

// address is what stands first in a text, unless it is 0: what the kernel shows to those who may not know it.
func address(text string) string { return strings.Trim(strings.Fields(text + " 0")[0], "0-") }

func shows(pattern string, what func(text string) string) error {
	return opened(pattern, unix.O_RDONLY, func(fd int) error {
		start := make([]byte, 4096)
		n, err := unix.Read(fd, start)
		if err == nil && what(string(start[:n])) == "" {
			return errors.New("it is empty")
		}
		return err
	})
}
