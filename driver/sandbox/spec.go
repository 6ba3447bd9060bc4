package sandbox

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec builds the specification of a task's sandbox on a host. It fails on a task that would not be a sandbox.
func Spec(t Task, h Host) (*specs.Spec, error) {
	err := validate(&t)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: t.Hostname,
		Root:     &specs.Root{Path: t.Rootfs, Readonly: t.ReadonlyRootfs},
		Process:  &specs.Process{},
		Linux:    &specs.Linux{Resources: &specs.LinuxResources{}, CgroupsPath: t.CgroupsPath},
	}
	for _, a := range appliers() {
		err := a.apply(s, &t, &h)
		if err != nil {
			return nil, fmt.Errorf("cannot build the sandbox's %s: %w", a.name, err)
		}
	}
	return s, nil
}

// appliers is what a specification is made of, in order: seccomp reads the capabilities that came before it.
func appliers() []applier {
	return []applier{
		{"process", applyProcess},
		{"environment", applyEnv},
		{"capabilities", applyCapabilities},
		{"limits", applyRlimits},
		{"namespaces", applyNamespaces},
		{"sysctls", applySysctls},
		{"mounts", applyMounts},
		{"kernel files", applyPaths},
		{"devices", applyDevices},
		{"resources", applyResources},
		{"system calls", applySeccomp},
		{"labels", applyLabels},
	}
}

// validate refuses what would make the specification mean something else than it says.
func validate(t *Task) error {
	checks := []struct {
		ok   bool
		text string
	}{
		{path.IsAbs(t.Rootfs), "the root file system has no absolute path"},
		{len(t.Args) > 0 && t.Args[0] != "", "no command: neither the job nor the image names one; set command in the task's config"},
		{cleanAbs(t.Cwd), fmt.Sprintf("work_dir %q is not a clean absolute path", t.Cwd)},
		{strings.HasPrefix(t.CgroupsPath, "/") && path.Clean(t.CgroupsPath) == t.CgroupsPath && t.CgroupsPath != "/", fmt.Sprintf("cgroup path %q is not usable", t.CgroupsPath)},
		{t.HostUsers || t.IDStart >= IDRangeSize, "internal error: the task has no range of user identifiers"},
		{t.IDStart <= 1<<31-IDRangeSize, "internal error: the task's range of user identifiers is out of bounds"},
		{t.Resources.Pids > 0, "the limit of processes must be at least 1: 0 does not mean unlimited"},
		{t.Resources.MemoryBytes > 0, "the task has no memory limit"},
		{t.OOMScoreAdj >= 0 && t.OOMScoreAdj <= 1000, "oom_score_adj is 0 to 1000: a task can't be protected more than the rest of its host"},
		{t.User.UID < IDRangeSize && t.User.GID < IDRangeSize, fmt.Sprintf("user %d:%d lies outside the sandbox's 65536 identifiers", t.User.UID, t.User.GID)},
		{!t.HostNetwork || t.Netns == "", "internal error: host network and a namespace to join"},
		{noNUL(t), "a NUL byte in arguments or environment"},
	}
	for _, c := range checks {
		if !c.ok {
			return fmt.Errorf("cannot build a sandbox: %s", c.text)
		}
	}
	return validatePlaces(t)
}

// validatePlaces refuses mount points that would cover what the sandbox itself is made of.
func validatePlaces(t *Task) error {
	var places []string
	for _, b := range t.Binds {
		if !path.IsAbs(b.Source) {
			return fmt.Errorf("cannot mount %q: the source must be an absolute path", b.Source)
		}
		places = append(places, b.Target)
	}
	for _, m := range t.Tmpfs {
		places = append(places, m.Target)
	}
	for _, p := range places {
		if !cleanAbs(p) || p == "/" {
			return fmt.Errorf("cannot mount at %q: the target must be a clean absolute path", p)
		}
		if reserved(p) {
			return fmt.Errorf("cannot mount at %q: it belongs to the sandbox", p)
		}
	}
	return nil
}

// reserved tells places that only the sandbox itself fills: a tenant that could mount over them would undo the
// masks and choose what /dev/null is (CVE-2025-31133).
func reserved(p string) bool {
	for _, r := range []string{"/proc", "/sys", "/dev", "/usr/local/nvidia"} {
		if p == r || strings.HasPrefix(p, r+"/") {
			return true
		}
	}
	return false
}

func cleanAbs(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

func noNUL(t *Task) bool {
	for _, a := range t.Args {
		if strings.ContainsRune(a, 0) {
			return false
		}
	}
	for k, v := range t.Env {
		if strings.ContainsAny(k, "=\x00") || k == "" || strings.ContainsRune(v, 0) {
			return false
		}
	}
	return true
}

func applyLabels(s *specs.Spec, t *Task, _ *Host) error {
	for k, v := range t.Labels {
		// Runtimes take orders from annotations of these names.
		if strings.HasPrefix(k, "run.oci.") || strings.HasPrefix(k, "org.opencontainers.runc") || strings.HasPrefix(k, "dev.gvisor.") {
			return fmt.Errorf("label %q is reserved", k)
		}
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[k] = v
	}
	return nil
}
