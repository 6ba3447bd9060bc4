package doctor

import (
	"bufio"
	"context"
	"runtime"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// checkHost says what there is.
func checkHost(_ context.Context, h Host, _ nomad) []Finding {
	const a = area("host")
	name := "Linux"
	for line := range strings.Lines(h.read("/etc/os-release")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			name = strings.Trim(value, `"`)
		}
	}
	return []Finding{
		a.ok("system", "%s, kernel %s", name, h.read("/proc/sys/kernel/osrelease")),
		a.ok("size", "%d CPUs, %s of memory", runtime.NumCPU(), humanize.IBytes(memory(h.read("/proc/meminfo")))),
	}
}

func memory(meminfo string) uint64 {
	lines := bufio.NewScanner(strings.NewReader(meminfo))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			kib, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// checkKernel looks at what sandboxes are made of, besides what the driver itself asks for.
func checkKernel(_ context.Context, h Host, _ nomad) []Finding {
	const a = area("kernel")
	return []Finding{a.namespaces(h), a.pidfd(h), a.seccomp(h), a.modules(h)}
}

func (a area) namespaces(h Host) Finding {
	const name = "namespaces"
	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		file := "/proc/sys/user/max_" + kind + "_namespaces"
		if h.read(file) == "0" {
			return a.fail(name, "sysctl -w user.max_"+kind+"_namespaces=10000", "%s is 0: no sandbox can have its own", file)
		}
	}
	for sysctl, locked := range map[string]string{"unprivileged_userns_clone": "0", "apparmor_restrict_unprivileged_userns": "1"} {
		if h.read("/proc/sys/kernel/"+sysctl) == locked {
			return a.ok(name, "all kinds; kernel.%s = %s keeps user namespaces from users but not from the driver, which is root", sysctl, locked)
		}
	}
	return a.ok(name, "all kinds")
}

func (a area) pidfd(h Host) Finding {
	err := h.Pidfd()
	if err != nil {
		return a.fail("pidfd", "use a kernel from 5.3 on, and no seccomp profile that denies pidfd_open", "processes cannot be held by descriptor: %v", err)
	}
	return a.ok("pidfd", "available")
}

func (a area) seccomp(h Host) Finding {
	actions := h.read("/proc/sys/kernel/seccomp/actions_avail")
	if !strings.Contains(actions, "errno") {
		return a.fail("seccomp", "use a kernel with CONFIG_SECCOMP_FILTER", "the kernel filters no system calls")
	}
	return a.ok("seccomp", "%s", actions)
}

// modules notes the security modules that have a say about tasks.
func (a area) modules(h Host) Finding {
	const name = "security modules"
	if h.read("/sys/fs/selinux/enforce") == "1" {
		return a.warn(name, "see ausearch -m avc -ts recent when a task fails, and label the driver's state_dir container_file_t",
			"SELinux enforces a policy, and the driver labels nothing: tasks may be denied their own files")
	}
	if h.read("/sys/module/apparmor/parameters/enabled") == "Y" {
		return a.ok(name, "AppArmor is on")
	}
	return a.ok(name, "neither AppArmor nor SELinux; tasks do not rely on them")
}
