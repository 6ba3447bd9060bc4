package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// initPlace is where a task's init lies: in a directory that is never the image's, by a name that it knows itself by.
	initPlace   = "/dev/pangaea-init"
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// gpuLibraries is where CUDA's images look for the driver's libraries, in lib for old ones and lib64.
	gpuLibraries = "/usr/local/nvidia/lib:/usr/local/nvidia/lib64"
	gpuPrograms  = "/usr/local/nvidia/bin"
)

func applyProcess(s *specs.Spec, t *Task, h *Host) error {
	// Nomad's own unit file runs it at -1000, which tasks would inherit and never be killed for want of memory.
	oom := max(0, h.OOMScoreAdj, t.OOMScoreAdj)
	s.Process.Args = slices.Clone(t.Args)
	if t.Init != "" {
		s.Process.Args = append([]string{initPlace}, t.Args...)
	}
	s.Process.Cwd = t.Cwd
	s.Process.Terminal = t.Terminal
	s.Process.NoNewPrivileges = true
	s.Process.ApparmorProfile = t.AppArmor
	s.Process.OOMScoreAdj = &oom
	// The primary group is listed too: a program that changes it must not lose what the group is denied (CVE-2022-2989).
	groups := []uint32{t.User.GID}
	for _, g := range t.User.Groups {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	s.Process.User = specs.User{UID: t.User.UID, GID: t.User.GID, AdditionalGids: groups}
	return nil
}

// applyEnv merges the environment. What the task may see of GPUs is decided by the grant alone: a template that sets
// NVIDIA_VISIBLE_DEVICES=all changes nothing, not even what the program reads.
func applyEnv(s *specs.Spec, t *Task, _ *Host) error {
	env := map[string]string{"PATH": defaultPath, "HOSTNAME": t.Hostname}
	for _, pair := range t.ImageEnv {
		key, value, ok := strings.Cut(pair, "=")
		if ok && key != "" && !strings.ContainsRune(pair, 0) {
			env[key] = value
		}
	}
	maps.Copy(env, t.Env)
	grantEnv(env, t.GPUs)
	for key, value := range env {
		s.Process.Env = append(s.Process.Env, key+"="+value)
	}
	sort.Strings(s.Process.Env)
	return nil
}

// grantEnv makes the environment tell of the granted GPUs and no others.
func grantEnv(env map[string]string, g GPUs) {
	maps.DeleteFunc(env, func(key, _ string) bool { return strings.HasPrefix(key, "PANGAEA_GPU_") })
	env["NVIDIA_VISIBLE_DEVICES"] = "void"
	if g.Visible != "" {
		env["NVIDIA_VISIBLE_DEVICES"] = g.Visible
	}
	if g.Driver != "" {
		env["LD_LIBRARY_PATH"] = appendPath(env["LD_LIBRARY_PATH"], gpuLibraries)
		env["PATH"] = appendPath(env["PATH"], gpuPrograms)
	}
}

// appendPath adds what is missing of a colon-separated list to another.
func appendPath(list, more string) string {
	parts := strings.FieldsFunc(list, func(r rune) bool { return r == ':' })
	for _, p := range strings.Split(more, ":") {
		if !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ":")
}

// applyCapabilities gives the allowed capabilities that this host has. The inheritable and ambient sets stay empty
// always: with them a program of the image could regain what it gave up (CVE-2022-29162).
func applyCapabilities(s *specs.Spec, t *Task, h *Host) error {
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	caps := slices.Clone(t.Capabilities)
	sort.Strings(caps)
	for _, c := range slices.Compact(caps) {
		if !slices.Contains(h.Capabilities, c) {
			return fmt.Errorf("the driver does not have %s itself on this host, so it can't give it", c)
		}
		p := s.Process.Capabilities
		p.Bounding = append(p.Bounding, c)
		p.Permitted = append(p.Permitted, c)
		p.Effective = append(p.Effective, c)
	}
	return nil
}

// applyRlimits clamps the limits to what the driver itself may set.
func applyRlimits(s *specs.Spec, t *Task, h *Host) error {
	limits := map[string]Limit{
		"RLIMIT_NOFILE": {Soft: 1 << 20, Hard: 1 << 20},
		"RLIMIT_CORE":   {},
	}
	for name, l := range t.Rlimits {
		if !knownRlimit(name) {
			return fmt.Errorf("there is no limit %q", name)
		}
		limits[name] = l
	}
	names := make([]string, 0, len(limits))
	for name := range limits {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		l := limits[name]
		if own, ok := h.Rlimits[name]; ok {
			l.Hard = min(l.Hard, own.Hard)
		}
		l.Soft = min(l.Soft, l.Hard)
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: name, Hard: l.Hard, Soft: l.Soft})
	}
	return nil
}

func knownRlimit(name string) bool {
	return slices.Contains(RlimitNames(), name)
}

// RlimitNames are the limits that a task may have. Priorities and real-time scheduling are not among them.
func RlimitNames() []string {
	return []string{
		"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
		"RLIMIT_MSGQUEUE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
	}
}
