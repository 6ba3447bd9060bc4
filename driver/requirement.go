package driver

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// probe is what is asked of the machine. Tests stand in for it.
type probe struct {
	exists  func(path string) bool
	read    func(path string) (string, error)
	version func(ctx context.Context, runtime string) (string, error)
	other   func(ctx context.Context, name string, r OtherRuntime) (string, error)
	euid    int
}

func newProbe(runtimes *inspector) probe {
	return probe{
		exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
		read: func(path string) (string, error) {
			text, err := os.ReadFile(path)
			return strings.TrimSpace(string(text)), err
		},
		version: runtimeVersion,
		other:   runtimes.version,
		euid:    os.Geteuid(),
	}
}

// requirement is something that the driver cannot work without. The fingerprint gives the first that is not met as
// the reason, "pangaea doctor" shows them all.
type requirement struct {
	name string
	ok   bool
	seen string // what was found, or what is wrong
	fix  string // what to do if it is not ok
}

func (r requirement) problem() string { return r.seen + ": " + r.fix }

// either is a requirement that reads differently when it is not met.
func either(name string, ok bool, good, bad, fix string) requirement {
	if ok {
		return requirement{name: name, ok: true, seen: good}
	}
	return requirement{name: name, seen: bad, fix: fix}
}

// requirements looks at all of them, and for the runtime's libcontainer version on the way.
func (s *settings) requirements(ctx context.Context, p probe) (all []requirement, libcontainer string) {
	shim, runtime := s.programs()
	filesystems, _ := p.read("/proc/filesystems")
	maxUsers, _ := p.read("/proc/sys/user/max_user_namespaces")
	release, _ := p.read("/proc/sys/kernel/osrelease")
	overlay := strings.Contains(filesystems, "\toverlay\n") || strings.HasSuffix(filesystems, "\toverlay")
	_, keyErr := s.signatureRules()
	all = []requirement{
		either("options", len(s.problems) == 0, "understood", strings.Join(s.problems, "; "), "correct the driver's plugin block"),
		either("user", p.euid == 0, "root", "the Nomad client does not run as root", "the driver needs it to make sandboxes"),
		either(shimName, p.exists(shim), shim, shim+" is missing", "install it beside the plugin, or set shim_path"),
		either(runtimeName, p.exists(runtime), runtime, runtime+" is missing", "install it beside the plugin, or set runtime_path"),
		either("user namespaces", maxUsers != "" && maxUsers != "0", "at most "+maxUsers, "this kernel allows no user namespaces", "raise the sysctl user.max_user_namespaces"),
		either("overlayfs", overlay, "available", "this kernel has no overlayfs", "load the module overlay"),
		either("kernel", kernelAtLeast(release, 5, 19), release, fmt.Sprintf("kernel %s is too old", release), "5.19 is the first whose overlayfs takes id-mapped layers"),
		either("signatures", keyErr == nil, fmt.Sprintf("%d rules", len(s.Signatures)), fmt.Sprint(keyErr), "correct the driver's signature blocks"),
	}
	if !p.exists(runtime) {
		return all, ""
	}
	libcontainer, err := p.version(ctx, runtime)
	if err != nil {
		problem, fix, _ := cutLast(err.Error(), ": ")
		return append(all, requirement{name: "libcontainer", seen: problem, fix: fix}), ""
	}
	return append(all, requirement{name: "libcontainer", ok: true, seen: libcontainer}), libcontainer
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// kernelAtLeast compares a kernel release such as 6.18.5-amd64.
func kernelAtLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	digits := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		parts[1] = parts[1][:digits]
	}
	b, err := strconv.Atoi(parts[1])
	return err == nil && (a > major || (a == major && b >= minor))
}
