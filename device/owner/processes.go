package owner

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pangaea/device/nvml"
)

// Host is where processes are looked up.
type Host struct {
	Proc string // "/proc"
}

// desktop are the compositors and daemons that hold a GPU without anyone working with it.
func desktop() []string {
	return []string{
		"Xorg", "X", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "plasmashell", "mutter", "cinnamon", "compiz",
		"sddm-greeter", "gnome-remote-de", "nvidia-persiste", "nvidia-smi", "nv-hostengine", "dcgm-exporter", "nvidia-cuda-mps",
	}
}

// Foreign is the first process that is the owner's own, as "name (pid)", "" when there is none. With names given, only
// processes of these names count.
func (h Host) Foreign(processes []nvml.Process, names []string) string {
	for _, p := range processes {
		name, ok := h.name(p.PID)
		// Whether it ends is asked last: only of one that does not was the answer before right.
		if !ok || p.PID == os.Getpid() || h.ofTask(p.PID) || h.ends(p.PID) {
			continue
		}
		counts := !slices.Contains(desktop(), name)
		if len(names) > 0 {
			counts = slices.Contains(names, name)
		}
		if counts {
			return name + " (" + strconv.Itoa(p.PID) + ")"
		}
	}
	return ""
}

// name is the process's command name; ok is false when it is gone or lives in another PID namespace.
func (h Host) name(pid int) (name string, ok bool) {
	comm, err := os.ReadFile(h.file(pid, "comm"))
	return string(bytes.TrimSpace(comm)), err == nil
}

// Task is the allocation and task that the first of the processes belongs to, by its cgroup alone.
func (h Host) Task(processes []nvml.Process) (alloc, task string) {
	for _, p := range processes {
		for _, path := range h.cgroups(p.PID) {
			alloc, task = taskOf(path)
			if alloc != "" {
				return alloc, task
			}
		}
	}
	return "", ""
}

// taskOf reads Nomad's <allocation>.<task>, or on cgroup v2 <allocation>.<task>.scope, out of a path.
func taskOf(path string) (alloc, task string) {
	if !nomads(path) {
		return "", ""
	}
	for part := range strings.SplitSeq(path, "/") {
		const uuid = 36
		name := strings.TrimSuffix(part, ".scope")
		if len(name) > uuid+1 && name[uuid] == '.' && name[8] == '-' && name[13] == '-' {
			return name[:uuid], name[uuid+1:]
		}
	}
	return "", ""
}

func nomads(path string) bool {
	return strings.Contains(path+"/", "/nomad/") || strings.Contains(path, "/nomad.slice/")
}

// cgroups are the paths that a process has in the hierarchies.
func (h Host) cgroups(pid int) []string {
	raw, err := os.ReadFile(h.file(pid, "cgroup"))
	if err != nil {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(raw)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		_, path, _ := strings.Cut(rest, ":")
		paths = append(paths, path)
	}
	return paths
}

// ofTask tells whether Nomad started the process.
func (h Host) ofTask(pid int) bool {
	if slices.ContainsFunc(h.cgroups(pid), nomads) {
		return true
	}
	environ, err := os.ReadFile(h.file(pid, "environ"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.HasPrefix(v, []byte("NOMAD_ALLOC_ID=")) })
}

// ends tells whether a process has gone or is on its way. Then it has no environment any more, and on cgroup v1 it is
// back in the root cgroup, so a task's process can't be told from the owner's; freeing a GPU's memory takes seconds.
func (h Host) ends(pid int) bool {
	raw, err := os.ReadFile(h.file(pid, "stat"))
	if err != nil {
		return true
	}
	// The name, in parentheses, may hold anything; behind it flags is the seventh field (proc_pid_stat(5)).
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) < 7 {
		return true
	}
	const exiting = 0x4 // PF_EXITING
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err != nil || flags&exiting != 0
}

func (h Host) file(pid int, name string) string {
	return filepath.Join(h.Proc, strconv.Itoa(pid), name)
}
