package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

const (
	// runscRoots is where runsc keeps its state. Below a task's directory its control socket's path would be longer
	// than the 108 bytes that a socket's may have, and runsc would put the socket into /run itself.
	runscRoots = "/run/pangaea/runsc"
	// runscID is what runsc calls every sandbox: each has a root of its own.
	runscID = "task"
)

// runscRoot is where runsc keeps the state of the task of a directory.
func runscRoot(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(runscRoots, hex.EncodeToString(sum[:8]))
}

// suitRunsc makes a spec one for gVisor. /proc, /sys, /dev and the system calls are those of the task's own kernel, so
// there is nothing of the host's to mount or to mask; what that kernel can't do is refused rather than left out.
func suitRunsc(spec *specs.Spec, r Runtime, launch *record.Launch, dir string) error {
	linux := *spec.Linux
	spec.Linux = &linux
	for key := range linux.Sysctl {
		err := RunscSysctl(key)
		if err != nil {
			return err
		}
	}
	linux.Sysctl = nil
	mounts := runscTmp(spec)
	for _, m := range spec.Mounts {
		switch {
		case m.Destination == "/sys":
			m = specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
		case m.Destination == "/sys/fs/cgroup":
			continue
		case strings.HasPrefix(m.Destination, "/dev/") && slices.Contains(m.Options, "bind"):
			err := addRunscDevice(&linux, m, unix.Stat)
			if err != nil {
				return err
			}
			continue
		}
		// A mount is one to gVisor, with all that the host has mounted in it, and it knows no word for that.
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(option string) bool { return option == "rro" })
		mounts = append(mounts, m)
	}
	spec.Mounts = mounts
	launch.RuntimeRoot, launch.RuntimeID = runscRoot(dir), runscID
	launch.RuntimeArgs = append(runscFlags(spec, r), r.Args...)
	return nil
}

// RunscSysctl refuses what gVisor can't set.
func RunscSysctl(key string) error {
	// These two open what gVisor never closes.
	if key == "net.ipv4.ip_unprivileged_port_start" || key == "net.ipv4.ping_group_range" {
		return nil
	}
	return fmt.Errorf("cannot set sysctl %q: gVisor has kernel settings of its own, which it takes from nobody", key)
}

// runscTmp keeps the image's /tmp where the rest of its files are, and within what bounds these: over one that is empty
// gVisor mounts a file system of its own in the task's memory.
func runscTmp(spec *specs.Spec) []specs.Mount {
	if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/tmp" }) {
		return nil
	}
	dir := filepath.Join(spec.Root.Path, "tmp")
	// An image can make it a link to anywhere on the host. Nobody can any more: nothing of the task runs yet.
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return nil
	}
	return []specs.Mount{{Destination: "/tmp", Type: "bind", Source: dir, Options: []string{"bind", "rprivate", "rw", "nosuid", "nodev"}}}
}

// runscFlags are what runsc is told besides the spec. Defaults that the sandbox depends on are spelled out.
func runscFlags(spec *specs.Spec, r Runtime) []string {
	flags := []string{
		"--platform=systrap", "--network=" + runscNetwork(spec, r),
		// The root file system is for the task alone, and bounded in size on the host; alloc and volume directories are
		// the host's and other tasks' as well.
		"--overlay2=none", "--file-access=exclusive", "--file-access-mounts=shared",
		"--host-uds=none", "--host-fifo=none", "--character-device-policy=emulated-only",
		"--oci-seccomp", "--net-raw=false", "--allow-suid=false",
		// A namespace that is shared would have to stay mounted after the last task.
		"--gofer-network-namespace=new",
	}
	if len(spec.Linux.Devices) > 0 {
		flags = append(flags, "--nvproxy", "--nvproxy-allowed-driver-capabilities=compute,utility")
	}
	return flags
}

// runscNetwork says whose network stack the task has. Of a namespace of its own it needs only the loopback interface,
// which gVisor makes itself.
func runscNetwork(spec *specs.Spec, r Runtime) string {
	for _, n := range spec.Linux.Namespaces {
		switch {
		case n.Type != specs.NetworkNamespace:
		case n.Path == "":
			return "none"
		case !r.HostStack:
			return "sandbox"
		}
	}
	return "host"
}

// addRunscDevice turns the bind of a GPU's node into a device of the spec, which is what nvproxy serves.
func addRunscDevice(linux *specs.Linux, m specs.Mount, stat func(string, *unix.Stat_t) error) error {
	name := strings.TrimPrefix(m.Destination, "/dev/")
	number := strings.TrimPrefix(name, "nvidia")
	switch {
	case name == "nvidia-uvm-tools":
		// CUDA's debugging tools use it, and do without it.
		return nil
	case strings.HasPrefix(name, "nvidia-caps/"):
		return fmt.Errorf("cannot give the task a MIG instance: gVisor passes on whole GPUs only")
	case name != "nvidiactl" && name != "nvidia-uvm" && (number == name || number == "" || strings.Trim(number, "0123456789") != ""):
		return fmt.Errorf("cannot give the task %s: gVisor passes on no devices but NVIDIA GPUs", m.Destination)
	case m.Source != m.Destination:
		return fmt.Errorf("cannot give the task %s: gVisor finds it only there, and this host has it at %s", m.Destination, m.Source)
	}
	var st unix.Stat_t
	err := stat(m.Source, &st)
	if err != nil {
		return fmt.Errorf("cannot read device %s: %w", m.Source, err)
	}
	mode, root := os.FileMode(0o666), uint32(0)
	linux.Devices = append(slices.Clip(linux.Devices), specs.LinuxDevice{
		Path: m.Destination, Type: "c", Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &root, GID: &root,
	})
	return nil
}
