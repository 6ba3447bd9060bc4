package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// controlNode tells the nodes that every CUDA program needs. Not among them are nvidia-modeset, nvidia-drm,
// nvidia-nvswitch and the rendering nodes: they reach further than the granted GPU.
func controlNode(name string) bool {
	return name == "nvidiactl" || name == "nvidia-uvm" || name == "nvidia-uvm-tools"
}

// deviceNode tells the nodes of a GPU, or of a MIG instance and its capabilities.
func deviceNode(name string) bool {
	return regexp.MustCompile(`^nvidia[0-9]+$|^nvidia-caps/nvidia-cap[0-9]+$`).MatchString(name)
}

// openNodes keeps the nodes whose name, below /dev, is wanted, and reads their numbers.
func openNodes(root string, paths []string, want func(name string) bool) ([]Device, error) {
	var devices []Device
	for _, p := range paths {
		inside := p
		if root != "/" {
			inside = strings.TrimPrefix(p, strings.TrimRight(root, "/"))
		}
		name, ok := strings.CutPrefix(inside, "/dev/")
		if !ok || !want(name) {
			continue
		}
		source := filepath.Join(root, "dev", name)
		var st unix.Stat_t
		err := unix.Lstat(source, &st)
		if err != nil {
			return nil, fmt.Errorf("cannot read device node %s: %w", source, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR {
			return nil, fmt.Errorf("cannot use %s: it is not a character device", source)
		}
		devices = append(devices, Device{
			Source: source, Target: "/dev/" + name,
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		})
	}
	slices.SortFunc(devices, func(a, b Device) int { return strings.Compare(a.Target, b.Target) })
	return slices.Compact(devices), nil
}

// driverState changes whenever the driver, its libraries or its nodes do: an upgrade, a GPU that went or came.
func driverState(conf Config) string {
	var parts []string
	text, err := os.ReadFile(filepath.Join(conf.Proc, "driver/nvidia/version"))
	if err == nil {
		parts = append(parts, string(text))
	}
	for _, p := range []string{"etc/ld.so.cache", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64"} {
		info, err := os.Stat(filepath.Join(conf.Root, p))
		if err == nil {
			parts = append(parts, info.ModTime().String())
		}
	}
	for _, pattern := range []string{"nvidia*", "nvidia-caps/*"} {
		nodes, _ := filepath.Glob(filepath.Join(conf.Root, "dev", pattern))
		for _, n := range nodes {
			var st unix.Stat_t
			err := unix.Lstat(n, &st)
			if err == nil {
				parts = append(parts, n+"="+strconv.FormatUint(st.Rdev, 10))
			}
		}
	}
	return strings.Join(parts, "\n")
}

// foreignProc lists the directories of /proc/driver/nvidia/gpus that are about GPUs other than the granted ones.
// One whose number can't be read is hidden too.
func foreignProc(proc string, granted []Device) []string {
	dirs, _ := filepath.Glob(filepath.Join(proc, "driver/nvidia/gpus/*"))
	minor := regexp.MustCompile(`(?m)^Device Minor:\s*([0-9]+)`)
	var masked []string
	for _, dir := range dirs {
		text, _ := os.ReadFile(filepath.Join(dir, "information"))
		number := minor.FindSubmatch(text)
		own := number != nil && slices.ContainsFunc(granted, func(d Device) bool { return d.Target == "/dev/nvidia"+string(number[1]) })
		if !own {
			masked = append(masked, "/proc/driver/nvidia/gpus/"+filepath.Base(dir))
		}
	}
	return masked
}
