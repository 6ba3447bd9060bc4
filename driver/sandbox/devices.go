package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// node is a device that every task has: it can tell nothing about the host and change nothing on it.
type node struct{ major, minor int64 }

// standardNodes are null, zero, full, random, urandom, tty, ptmx and the terminals of the task's own /dev/pts. The
// runtime makes them itself.
func standardNodes() []node {
	return []node{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}}
}

// applyDevices starts from "deny all". What the task may open is decided by the device cgroup and not by which nodes
// it finds in /dev, so that neither its environment nor a node it gets from elsewhere opens another GPU.
func applyDevices(s *specs.Spec, t *Task, _ *Host) error {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, n := range standardNodes() {
		rules = append(rules, rule("c", n.major, n.minor, "rwm"))
	}
	for _, d := range t.Device {
		err := checkDevice(d)
		if err != nil {
			return err
		}
		rules = append(rules, rule(d.Type, d.Major, d.Minor, d.Access))
		// The node is bound and not made: a user namespace may make none, and the host's may lie below a driver
		// root of its own. It must not be mounted nodev, unlike all other binds.
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: d.Target, Type: "bind", Source: d.Source,
			Options: []string{"bind", "rprivate", "rw", "nosuid", "noexec"},
		})
	}
	s.Linux.Resources.Devices = rules
	return nil
}

func rule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Access: access}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// ownNode tells places in /dev that the sandbox itself fills: masks are made of /dev/null (CVE-2025-31133).
func ownNode(target string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(target, "/dev/"), "/")
	return slices.Contains([]string{
		"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "core", "pangaea-init",
	}, name)
}

func checkDevice(d Device) error {
	if !cleanAbs(d.Target) || !strings.HasPrefix(d.Target, "/dev/") || ownNode(d.Target) {
		return fmt.Errorf("device target %q is not a place for a device", d.Target)
	}
	if !path.IsAbs(d.Source) || (d.Type != "c" && d.Type != "b") || d.Major < 0 || d.Minor < 0 {
		return fmt.Errorf("device %q is not a device node", d.Source)
	}
	if d.Access == "" || strings.Trim(d.Access, "rwm") != "" {
		return fmt.Errorf("device %q has access %q, which is not made of r, w and m", d.Source, d.Access)
	}
	return nil
}
