package sandbox

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deniedCalls are never allowed, whatever the profile or the task's capabilities say: large attack surfaces in the
// kernel that GPU programs do not need, and the mount family.
func deniedCalls() []string {
	return []string{
		"add_key", "bpf", "delete_module", "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module",
		"io_uring_enter", "io_uring_register", "io_uring_setup", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount",
		"mount_setattr", "move_mount", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root",
		"quotactl", "quotactl_fd", "reboot", "request_key", "setns", "swapoff", "swapon", "syslog", "umount", "umount2", "unshare", "userfaultfd",
	}
}

// allowedSockets are the address families that a task may open. Left out are, among others, AF_ALG (a door to the
// kernel's crypto code), AF_VSOCK (reaches the hypervisor past every network rule) and AF_PACKET.
func allowedSockets() []uint64 {
	return []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
}

// applySeccomp takes Moby's default profile, which follows the task's capabilities, and makes it narrower.
func applySeccomp(s *specs.Spec, t *Task, _ *Host) error {
	if t.Seccomp != "" {
		profile, err := seccomp.LoadProfile(t.Seccomp, s)
		if err != nil {
			return fmt.Errorf("cannot read the operator's profile: %w", err)
		}
		s.Linux.Seccomp = profile
		return nil
	}
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return fmt.Errorf("cannot make the default profile: %w", err)
	}
	// Only the machine's own calls: on x86 the 32-bit and x32 tables are second doors to everything that the filter
	// judges by argument, such as socketcall.
	if len(profile.Architectures) > 1 {
		profile.Architectures = profile.Architectures[:1]
	}
	var kept []specs.LinuxSyscall
	for _, rule := range profile.Syscalls {
		rule.Names = slices.DeleteFunc(slices.Clone(rule.Names), func(name string) bool {
			return rule.Action == specs.ActAllow && (name == "socket" || name == "socketcall" || slices.Contains(deniedCalls(), name))
		})
		if len(rule.Names) > 0 {
			kept = append(kept, rule)
		}
	}
	for _, family := range allowedSockets() {
		kept = append(kept, specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}},
		})
	}
	profile.Syscalls = kept
	s.Linux.Seccomp = profile
	return nil
}
