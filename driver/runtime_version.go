package driver

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"pangaea/driver/gpu"
)

const (
	// minRunc is the first release that survives an image whose /dev is a symbolic link (CVE-2026-41579).
	minRunc = "1.5.2"
	// minRunsc is the day of the oldest gVisor that tasks were tested under; it has id-mapped mounts.
	minRunsc = "20260905"
	// inspectTimeout bounds what a runtime may take to tell its version.
	inspectTimeout = 10 * time.Second
)

// inspector finds out which versions the operator's runtimes have. It asks a program once, until its file changes.
type inspector struct {
	mu    sync.Mutex
	known map[string]judged
}

type judged struct {
	file    os.FileInfo
	version string
	err     error
	// drivers are the versions of NVIDIA's driver that runsc knows, once asked for.
	drivers []string
}

// version is a runtime's, or why it can't be used on this host.
func (i *inspector) version(ctx context.Context, name string, r OtherRuntime) (string, error) {
	err := checkRuntime(name, r)
	if err != nil {
		return "", err
	}
	file, err := statRuntime(r)
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	key := r.Kind + " " + r.Path
	last, ok := i.known[key]
	if ok && os.SameFile(last.file, file) && last.file.ModTime().Equal(file.ModTime()) && last.file.Size() == file.Size() {
		return last.version, last.err
	}
	now := judged{file: file}
	now.version, now.err = askVersion(ctx, r)
	if ctx.Err() == nil {
		if i.known == nil {
			i.known = map[string]judged{}
		}
		i.known[key] = now
	}
	return now.version, now.err
}

// statRuntime finds a runtime's program, which has to be one.
func statRuntime(r OtherRuntime) (os.FileInfo, error) {
	file, err := os.Stat(r.Path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s is missing: install it, or correct its path", r.Path)
	case !file.Mode().IsRegular() || file.Mode().Perm()&0o111 == 0:
		return nil, fmt.Errorf("%s is not an executable file", r.Path)
	case r.Kind == kindRunsc && file.Mode().Perm()&0o001 == 0:
		return nil, fmt.Errorf("%s runs itself as the tasks' users: make it executable for all (chmod 0755)", r.Path)
	}
	return file, nil
}

// askVersion runs a runtime to learn its version, and judges it.
func askVersion(ctx context.Context, r OtherRuntime) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Path, "--version")
	cmd.Env, cmd.Dir = []string{}, "/"
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s does not run (%w): install it again", r.Path, err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	program, version, ok := strings.Cut(string(line), " version ")
	switch {
	case !ok:
		return "", fmt.Errorf("%s does not tell its version: is it an OCI runtime?", r.Path)
	case r.Kind == kindRunsc && program != "runsc":
		return "", fmt.Errorf("%s is %s and not runsc: correct its kind", r.Path, program)
	case program == "runsc" && r.Kind != kindRunsc:
		return "", fmt.Errorf("%s is runsc: its kind is \"runsc\"", r.Path)
	case program == "runsc":
		return judgeRunsc(r.Path, version)
	}
	return judgeOCI(r.Path, program, strings.TrimSpace(version), cgroupV2())
}

// judgeOCI refuses runtimes that are known not to do.
func judgeOCI(path, program, version string, v2 bool) (string, error) {
	number := regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+`).FindString(version)
	switch {
	case program == "runc" && !atLeast(number, minRunc):
		return "", fmt.Errorf("%s is runc %s, under which an image can write into the host's directories (CVE-2026-41579): install %s or later", path, version, minRunc)
	case program == "crun" && !v2:
		return "", fmt.Errorf("%s is crun %s, which can't run on this host's cgroup v1: boot with systemd.unified_cgroup_hierarchy=1, or use runc", path, version)
	case version == "":
		return "", errors.New(path + " does not tell its version")
	}
	return version, nil
}

// judgeRunsc reads the day that releases are named by, as in release-20260905.0; builds of the Go module know it only
// as their module's version.
func judgeRunsc(path, version string) (string, error) {
	version = strings.TrimSpace(version)
	day := runscDay(version)
	if day == "" {
		version = moduleVersion(path, "gvisor.dev/gvisor")
		day = runscDay(version)
	}
	switch {
	case day == "":
		return "", fmt.Errorf("%s does not tell its version: install a release of gVisor", path)
	case day < minRunsc:
		return "", fmt.Errorf("%s is gVisor of %s, which lacks id-mapped mounts: install a release of %s or later", path, day, minRunsc)
	}
	return version, nil
}

func runscDay(version string) string {
	found := regexp.MustCompile(`[-.](20[0-9]{6})(?:[0-9]{6}-|\.|$)`).FindStringSubmatch(version)
	if found == nil {
		return ""
	}
	return found[1]
}

// moduleVersion is the version of a module that a Go program was built of.
func moduleVersion(path, module string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	if info.Main.Path == module {
		return info.Main.Version
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	return ""
}

// acceptsGPUs refuses what gVisor's nvproxy can't do. It passes on calls to NVIDIA's kernel driver, which it has to know
// the very version of, and knows nothing of the parts of a GPU.
func (i *inspector) acceptsGPUs(ctx context.Context, r OtherRuntime, e gpu.Edits) error {
	if r.Kind != kindRunsc || len(e.UUIDs) == 0 {
		return nil
	}
	for _, uuid := range e.UUIDs {
		if strings.HasPrefix(uuid, "MIG-") {
			return fmt.Errorf("cannot give the task MIG instance %s: gVisor passes on whole GPUs only; use another runtime", uuid)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	i.mu.Lock()
	defer i.mu.Unlock()
	key := r.Kind + " " + r.Path
	known := i.known[key]
	if known.drivers == nil {
		cmd := exec.CommandContext(ctx, r.Path, "nvproxy", "list-supported-drivers")
		cmd.Env, cmd.Dir = []string{}, "/"
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("cannot learn which NVIDIA drivers %s knows: %w", r.Path, err)
		}
		known.drivers = strings.Fields(string(out))
		if _, ok := i.known[key]; ok {
			i.known[key] = known
		}
	}
	if !slices.Contains(known.drivers, e.Version) && !slices.ContainsFunc(r.Args, func(a string) bool { return strings.HasPrefix(a, "--nvproxy-driver-version=") }) {
		return fmt.Errorf("cannot give the task its GPUs: %s does not know NVIDIA driver %s: install a later gVisor, or one of the drivers that \"runsc nvproxy list-supported-drivers\" lists", r.Path, e.Version)
	}
	return nil
}
