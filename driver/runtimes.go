package driver

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pangaea/driver/supervisor"
)

// ownRuntime is the name of the runtime that comes with the driver.
const ownRuntime = "runc"

// Kinds of runtimes that an operator may add.
const (
	kindRunsc = "runsc"
	kindOCI   = "oci"
	kindKata  = "kata"
)

// namedRuntimes checks that what the operator says of runtimes is about runtimes that there are. What is wrong with
// one of them is told when it is used, or by the fingerprint: the others still run.
func (s *settings) namedRuntimes() {
	if s.DefaultRuntime == "" {
		s.DefaultRuntime = ownRuntime
	}
	if !s.hasRuntime(s.DefaultRuntime) {
		s.problem("default_runtime %q is not %s", s.DefaultRuntime, s.runtimeNames())
	}
	for _, r := range s.RequireRuntime {
		if !s.hasRuntime(r.Runtime) {
			s.problem("require_runtime: runtime %q is not %s", r.Runtime, s.runtimeNames())
		}
		if len(r.Namespaces) == 0 {
			s.problem("require_runtime: name at least one namespace, or \"*\" for all")
		}
		s.namespacePatterns("require_runtime", r.Namespaces)
	}
}

// namespacePatterns checks patterns of Nomad's namespaces, such as pool-*.
func (s *settings) namespacePatterns(option string, patterns []string) {
	for _, pattern := range patterns {
		_, err := path.Match(pattern, "")
		if err != nil {
			s.problem("%s: namespace %q is no pattern", option, pattern)
		}
	}
}

// covers tells whether one of the patterns matches a namespace.
func covers(patterns []string, namespace string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		// A pattern that is none is a problem of the settings, with which no task starts.
		match, err := path.Match(pattern, namespace)
		return err == nil && match
	})
}

func (s *settings) hasRuntime(name string) bool {
	_, other := s.Runtimes[name]
	return other || name == ownRuntime
}

// runtimeNames lists what a job may ask for.
func (s *settings) runtimeNames() string {
	names := []string{fmt.Sprintf("%q", ownRuntime)}
	for _, name := range slices.Sorted(maps.Keys(s.Runtimes)) {
		names = append(names, fmt.Sprintf("%q", name))
	}
	return strings.Join(names, " or ")
}

// runtimeFor decides on a task's runtime: the operator's demand for its namespace, the job's choice among those that
// the operator has, the operator's default, in this order.
func (s *settings) runtimeFor(namespace, asked string) (string, error) {
	demanded := s.demandedRuntime(namespace)
	switch {
	case asked != "" && !s.hasRuntime(asked):
		return "", fmt.Errorf("cannot use runtime %q: on this host it is %s", asked, s.runtimeNames())
	case asked != "" && demanded != "" && asked != demanded:
		return "", fmt.Errorf("cannot use runtime %q: this host's operator demands %q of jobs in namespace %q", asked, demanded, namespace)
	case demanded != "":
		return demanded, nil
	case asked != "":
		return asked, nil
	}
	return s.DefaultRuntime, nil
}

func (s *settings) demandedRuntime(namespace string) string {
	for _, r := range s.RequireRuntime {
		if covers(r.Namespaces, namespace) {
			return r.Runtime
		}
	}
	return ""
}

// checkRuntime tells what is wrong with the way that the operator describes a runtime.
func checkRuntime(name string, r OtherRuntime) error {
	switch {
	case name == ownRuntime:
		return fmt.Errorf("the name %q is the driver's own runtime's: choose another", name)
	case !regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?$`).MatchString(name):
		return fmt.Errorf("the name must be of up to 32 small letters, digits, - and _")
	case r.Kind == kindKata:
		return fmt.Errorf("Kata Containers has had no OCI command line since version 2, only containerd's shim: " + //nolint:staticcheck // a name
			`for a kernel of its own for every task use kind = "runsc"`)
	case r.Kind != kindRunsc && r.Kind != kindOCI:
		return fmt.Errorf(`kind %q is not "runsc" or "oci"`, r.Kind)
	case !filepath.IsAbs(r.Path):
		return fmt.Errorf("path %q must be absolute", r.Path)
	case r.AllowHostStack && r.Kind != kindRunsc:
		return fmt.Errorf("allow_host_stack is for runsc: other runtimes use the host kernel's network stack anyway")
	case r.Kind == kindRunsc:
		return checkRunscArgs(r.Args)
	}
	return nil
}

// runscOptions are the options of runsc that leave its isolation as it is.
func runscOptions() []string {
	return []string{
		"app-huge-pages", "cpu-num-from-quota", "dcache", "debug", "debug-command", "debug-log", "debug-log-format", "directfs", "enable-core-tags",
		"fdlimit", "gso", "gvisor-gro", "gvisor-marker-file", "host-settings", "in-sandbox-cgroup", "kvm-use-cpu-nums",
		"network-processors-per-channel", "num-network-channels", "nvproxy-driver-version", "overlay2", "panic-log", "platform", "platform_device_path",
		"qdisc", "qdisc-tbf-burst", "qdisc-tbf-rate", "rx-checksum-offload", "sidecar-release-enforcement-policy", "sidecar-usage-policy", "software-gso",
		"strace", "strace-log-size", "strace-syscalls", "systrap-disable-fast-path", "systrap-disable-syscall-patching", "tx-checksum-offload", "watchdog-action",
	}
}

func checkRunscArgs(args []string) error {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		name, dashed := strings.CutPrefix(name, "--")
		if !dashed || !slices.Contains(runscOptions(), name) {
			return fmt.Errorf("args: %q is not an option of runsc that the driver passes on; write them like --platform=kvm, one a string", arg)
		}
	}
	return nil
}

// others are the runtimes as the supervisor knows them.
func (s *settings) others() map[string]supervisor.Runtime {
	kinds := map[string]string{kindRunsc: supervisor.KindRunsc, kindOCI: supervisor.KindOCI}
	others := map[string]supervisor.Runtime{}
	for name, r := range s.Runtimes {
		others[name] = supervisor.Runtime{Path: r.Path, Kind: kinds[r.Kind], Args: r.Args, HostStack: r.AllowHostStack}
	}
	return others
}

// chooseRuntime decides on the task's runtime, and refuses the task if that one can't be used here.
func (s *startup) chooseRuntime() (err error) {
	s.runtime, err = s.conf.runtimeFor(s.cfg.Namespace, s.job.Runtime)
	if err != nil || s.runtime == ownRuntime {
		return err
	}
	_, err = s.d.runtimes.version(s.ctx, s.runtime, s.conf.Runtimes[s.runtime])
	if err != nil {
		return fmt.Errorf("cannot use runtime %q on this host: %w", s.runtime, err)
	}
	return nil
}

// other is the supervisor's name of the task's runtime.
func (s *startup) other() string {
	if s.runtime == ownRuntime {
		return ""
	}
	return s.runtime
}
