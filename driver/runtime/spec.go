package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const runcModule = "github.com/opencontainers/runc"

// libcontainerVersion is the version of runc's module in this build.
func libcontainerVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == runcModule {
			return dep.Version
		}
	}
	return "unknown"
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// loadSpec reads a bundle's spec and refuses what must never run.
func loadSpec(bundle string) (*specs.Spec, error) {
	spec := new(specs.Spec)
	err := readJSON(filepath.Join(bundle, "config.json"), spec)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle's config.json: %w", err)
	}
	err = check(spec)
	if err != nil {
		return nil, err
	}
	restrict(spec.Process)
	trim(spec.Linux.Seccomp)
	return spec, nil
}

// check refuses specs that libcontainer would take. Hooks are programs that run on the host with what a
// container image can influence: CVE-2025-23266 was one.
func check(spec *specs.Spec) error {
	switch {
	case spec.Hooks != nil:
		return errors.New("the spec has hooks, which never run here")
	case spec.Root == nil || spec.Process == nil || spec.Linux == nil:
		return errors.New("the spec lacks root, process or linux")
	case len(spec.Process.Args) == 0:
		return errors.New("the spec names no program to run")
	case !filepath.IsAbs(spec.Process.Cwd):
		return errors.New("the spec's working directory is not absolute")
	case !filepath.IsAbs(spec.Linux.CgroupsPath):
		return errors.New("the spec's cgroupsPath is not absolute")
	}
	return nil
}

// restrict takes from a process what this process could not give it: without CAP_SYS_RESOURCE no limit can be
// raised, and a capability outside the bounding set fails the start instead of being left out.
func restrict(p *specs.Process) {
	for i := range p.Rlimits {
		clamp(&p.Rlimits[i])
	}
	caps := p.Capabilities
	if caps == nil {
		return
	}
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Inheritable, &caps.Permitted, &caps.Ambient} {
		*set = slices.DeleteFunc(*set, func(name string) bool { return !inBounds(name) })
	}
}

func clamp(limit *specs.POSIXRlimit) {
	resource, known := rlimits()[limit.Type]
	if !known {
		return
	}
	var own unix.Rlimit
	err := unix.Getrlimit(resource, &own)
	if err != nil {
		return
	}
	limit.Hard = min(limit.Hard, own.Max)
	limit.Soft = min(limit.Soft, limit.Hard)
}

func rlimits() map[string]int {
	return map[string]int{
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
		"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
		"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
		"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
		"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
	}
}

// inBounds says whether a capability is in this process's bounding set.
func inBounds(name string) bool {
	number := slices.Index(capabilities.KnownCapabilities(), name)
	if number < 0 {
		return false
	}
	in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
	return err == nil && in == 1
}

// newProcess turns an OCI process into libcontainer's.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	process := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile,
		NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler:       p.Scheduler, IOPriority: p.IOPriority,
		LogLevel: "3", // Warnings, in logrus's numbers.
	}
	for _, gid := range p.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(gid))
	}
	if p.ConsoleSize != nil {
		process.ConsoleWidth, process.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	if caps := p.Capabilities; caps != nil {
		process.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Inheritable: caps.Inheritable,
			Permitted: caps.Permitted, Ambient: caps.Ambient,
		}
	}
	for _, limit := range p.Rlimits {
		resource, known := rlimits()[limit.Type]
		if !known {
			return nil, fmt.Errorf("the spec has an unknown resource limit %q", limit.Type)
		}
		process.Rlimits = append(process.Rlimits, configs.Rlimit{Type: resource, Hard: limit.Hard, Soft: limit.Soft})
	}
	return process, nil
}
