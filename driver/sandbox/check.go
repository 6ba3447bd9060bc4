package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrUnsafe says that a specification is not a sandbox.
var ErrUnsafe = errors.New("not a sandbox")

// Loosened is what the operator allowed a task beyond the usual.
type Loosened struct {
	HostUsers, HostNetwork, Swap bool
	// Seccomp says that the operator's own profile stands in for the default one.
	Seccomp      bool
	Capabilities []string
	// AppArmor is the profile that was decided on.
	AppArmor string
}

// Check tells whether a specification is a sandbox: the checklist that Spec is built to satisfy, read from the other
// end. The driver runs it on every specification before it is started.
func Check(s *specs.Spec, allowed Loosened) error {
	rules := []struct {
		name string
		ok   bool
	}{
		{"no hooks", s.Hooks == nil},
		{"own user namespace of 65,536 identifiers", allowed.HostUsers || ownUsers(s)},
		{"private namespaces", privateNamespaces(s, allowed)},
		{"no new privileges", s.Process != nil && s.Process.NoNewPrivileges},
		{"only allowed capabilities", onlyCaps(s, allowed.Capabilities)},
		{"AppArmor's profile", s.Process != nil && s.Process.ApparmorProfile == allowed.AppArmor},
		{"allow-list of system calls", boundedCalls(s.Linux.Seccomp, allowed)},
		{"device cgroup that denies first", denyFirst(s)},
		{"no other tenant's GPU control nodes", !forbiddenNode(s)},
		{"mounts without setuid and devices", safeMounts(s)},
		{"no mount over the kernel's files", !kernelCovered(s)},
		{"masked and read-only kernel files", masked(s)},
		{"bounded processes and memory", bounded(s, allowed)},
		{"clean working directory", cleanAbs(s.Process.Cwd)},
		{"GPUs as granted in the environment", slices.ContainsFunc(s.Process.Env, func(e string) bool { return strings.HasPrefix(e, "NVIDIA_VISIBLE_DEVICES=") })},
		{"no memory of the host's choosing", s.Process.OOMScoreAdj != nil && *s.Process.OOMScoreAdj >= 0},
	}
	for _, r := range rules {
		if !r.ok {
			return fmt.Errorf("internal error: the specification is %w: it lacks %q", ErrUnsafe, r.name)
		}
	}
	return nil
}

func ownUsers(s *specs.Spec) bool {
	own := func(m []specs.LinuxIDMapping) bool {
		return len(m) == 1 && m[0].ContainerID == 0 && m[0].HostID >= IDRangeSize && m[0].Size == IDRangeSize
	}
	return hasNamespace(s, specs.UserNamespace, "") && own(s.Linux.UIDMappings) && own(s.Linux.GIDMappings)
}

func privateNamespaces(s *specs.Spec, allowed Loosened) bool {
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		if !hasNamespace(s, kind, "") {
			return false
		}
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return !strings.HasPrefix(n.Path, "/proc/")
		}
	}
	return allowed.HostNetwork
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType, path string) bool {
	return slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

func onlyCaps(s *specs.Spec, allowed []string) bool {
	c := s.Process.Capabilities
	if c == nil || len(c.Inheritable) > 0 || len(c.Ambient) > 0 {
		return false
	}
	for _, set := range [][]string{c.Bounding, c.Permitted, c.Effective} {
		for _, one := range set {
			if !slices.Contains(allowed, one) {
				return false
			}
		}
	}
	return true
}

// boundedCalls wants the default profile, or one of the operator's that denies what it does not name and asks no other
// process.
func boundedCalls(p *specs.LinuxSeccomp, allowed Loosened) bool {
	if !allowed.Seccomp {
		return allowList(p)
	}
	denies := []specs.LinuxSeccompAction{specs.ActErrno, specs.ActKillProcess, specs.ActKillThread, specs.ActKill}
	return p != nil && slices.Contains(denies, p.DefaultAction) && p.ListenerPath == ""
}

func allowList(p *specs.LinuxSeccomp) bool {
	if p == nil || p.DefaultAction != specs.ActErrno || len(p.Architectures) > 1 {
		return false
	}
	for _, rule := range p.Syscalls {
		if rule.Action != specs.ActAllow {
			continue
		}
		for _, name := range rule.Names {
			if slices.Contains(deniedCalls(), name) || name == "socketcall" || (name == "socket" && len(rule.Args) != 1) {
				return false
			}
		}
	}
	return true
}

func denyFirst(s *specs.Spec) bool {
	rules := s.Linux.Resources.Devices
	if len(rules) == 0 || rules[0].Allow || rules[0].Type != "" || rules[0].Access != "rwm" {
		return false
	}
	for _, r := range rules[1:] {
		if !r.Allow || r.Major == nil || (r.Minor == nil && *r.Major != 136) {
			return false
		}
	}
	return true
}

// forbiddenNode finds nodes that reach further than one GPU: mode setting, rendering for a display, the fabric.
func forbiddenNode(s *specs.Spec) bool {
	for _, m := range s.Mounts {
		for _, bad := range []string{"/dev/nvidia-modeset", "/dev/nvidia-drm", "/dev/nvidia-nvswitch", "/dev/dri", "/dev/mem", "/dev/kmsg", "/dev/fuse"} {
			if m.Destination == bad || strings.HasPrefix(m.Destination, bad+"/") || (strings.HasSuffix(bad, "nvswitch") && strings.HasPrefix(m.Destination, bad)) {
				return true
			}
		}
	}
	return false
}

// safeMounts wants nosuid on every mount, and nodev on all but /dev itself, its terminals and single nodes in it.
func safeMounts(s *specs.Spec) bool {
	for _, m := range s.Mounts {
		if !slices.Contains(m.Options, "nosuid") {
			return false
		}
		isNode := strings.HasPrefix(m.Destination, "/dev/") && slices.Contains(m.Options, "bind") && slices.Contains(m.Options, "noexec")
		if m.Destination == "/dev" || m.Destination == "/dev/pts" || isNode {
			continue
		}
		if !slices.Contains(m.Options, "nodev") {
			return false
		}
	}
	return true
}

func kernelCovered(s *specs.Spec) bool {
	kinds := map[string][]string{"/proc": {"proc"}, "/sys": {"sysfs", "bind"}, "/sys/fs/cgroup": {"cgroup"}, "/dev": {"tmpfs"}, "/dev/pts": {"devpts"}, "/dev/shm": {"tmpfs"}, "/dev/mqueue": {"mqueue"}}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if want, ok := kinds[m.Destination]; ok {
			if seen[m.Destination] || !slices.Contains(want, m.Type) {
				return true
			}
			seen[m.Destination] = true
			continue
		}
		if strings.HasPrefix(m.Destination, "/proc/") || strings.HasPrefix(m.Destination, "/sys/") {
			return true
		}
	}
	return !seen["/proc"] || !seen["/sys"] || !seen["/dev"]
}

func masked(s *specs.Spec) bool {
	for _, p := range MaskedPaths() {
		if !slices.Contains(s.Linux.MaskedPaths, p) {
			return false
		}
	}
	for _, p := range ReadonlyPaths() {
		if !slices.Contains(s.Linux.ReadonlyPaths, p) {
			return false
		}
	}
	return true
}

func bounded(s *specs.Spec, allowed Loosened) bool {
	r := s.Linux.Resources
	if r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit <= 0 {
		return false
	}
	m := r.Memory
	return m != nil && m.Limit != nil && *m.Limit > 0 && m.Swap != nil && (*m.Swap == *m.Limit || (allowed.Swap && *m.Swap > *m.Limit))
}
