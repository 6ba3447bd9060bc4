package driver

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"pangaea/driver/sandbox"
)

func hostCPUs() int { return runtime.NumCPU() }

// readHost reads what this machine and this process may hand on to a sandbox.
func readHost() sandbox.Host {
	h := sandbox.Host{Capabilities: boundingSet(), Rlimits: ownLimits(), CgroupV2: cgroupV2()}
	var info unix.Sysinfo_t
	err := unix.Sysinfo(&info)
	if err == nil {
		h.MemoryBytes = int64(info.Totalram) * int64(info.Unit)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	h.MapsMemory = err == nil && kernelAtLeast(string(release), 6, 3)
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		h.OOMScoreAdj, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	return h
}

func cgroupV2() bool {
	var st unix.Statfs_t
	err := unix.Statfs("/sys/fs/cgroup", &st)
	return err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// boundingSet is what a child of this process can have at most. Root in a container often lacks some.
func boundingSet() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	return Capabilities(string(status), "CapBnd")
}

// Capabilities are the names of a set, such as CapEff, in the text of a /proc/<pid>/status.
func Capabilities(status, set string) []string {
	_, rest, _ := strings.Cut(status, set+":\t")
	hex, _, _ := strings.Cut(rest, "\n")
	bits, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return nil
	}
	var caps []string
	for n, name := range capabilityNames() {
		if bits&(1<<n) != 0 {
			caps = append(caps, name)
		}
	}
	return caps
}

// ownLimits are this process's resource limits: without CAP_SYS_RESOURCE no hard limit can be raised.
func ownLimits() map[string]sandbox.Limit {
	numbers := map[string]int{
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC,
		"RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
	}
	limits := map[string]sandbox.Limit{}
	for name, number := range numbers {
		var l unix.Rlimit
		err := unix.Getrlimit(number, &l)
		if err == nil {
			limits[name] = sandbox.Limit{Soft: l.Cur, Hard: l.Max}
		}
	}
	return limits
}
