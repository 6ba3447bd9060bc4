package owner

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

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

// User is one process that has a GPU open.
type User struct {
	PID         int
	Name        string
	Alloc, Task string // by its cgroup alone, which no task can choose; "" for drivers that use cgroups of their own
	OfNomad     bool
	Ends        bool // it has gone or is on its way: whose it was can no longer be told
}

// Users looks processes up, each once, though it may compute and draw. Those that have gone, live in another PID
// namespace, or are this plugin are left out.
func (h Host) Users(processes []nvml.Process) []User {
	var all []User
	for _, p := range processes {
		if p.PID == os.Getpid() || slices.ContainsFunc(all, func(u User) bool { return u.PID == p.PID }) {
			continue
		}
		name, ok := h.name(p.PID)
		if !ok {
			continue
		}
		u := User{PID: p.PID, Name: name}
		u.Alloc, u.Task, u.OfNomad = h.ofTask(p.PID)
		// Asked last: only of a process that does not end was the answer before right.
		u.Ends = h.ends(p.PID)
		all = append(all, u)
	}
	return all
}

// Hidden counts the processes that have gone or that this PID namespace does not show.
func Hidden(processes []nvml.Process, users []User) int {
	hidden := make(map[int]bool)
	for _, p := range processes {
		if p.PID != os.Getpid() && !slices.ContainsFunc(users, func(u User) bool { return u.PID == p.PID }) {
			hidden[p.PID] = true
		}
	}
	return len(hidden)
}

// Owners are the processes that are the owner's own. With names given, only processes of these names count.
func Owners(users []User, names []string) []User {
	var all []User
	for _, u := range users {
		counts := !slices.Contains(desktop(), u.Name)
		if len(names) > 0 {
			counts = slices.Contains(names, u.Name)
		}
		if counts && !u.OfNomad && !u.Ends {
			all = append(all, u)
		}
	}
	return all
}

// Task is the allocation and task that the first of the processes belongs to.
func Task(users []User) (alloc, task string) {
	for _, u := range users {
		if u.Alloc != "" {
			return u.Alloc, u.Task
		}
	}
	return "", ""
}

// name is the process's command name; ok is false when it is gone or lives in another PID namespace. Any user chooses
// the name of his processes, and it ends up on terminals.
func (h Host) name(pid int) (name string, ok bool) {
	comm, err := os.ReadFile(h.file(pid, "comm"))
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, string(bytes.TrimSpace(comm)))
	return printable, err == nil
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

// nomads tells whether Nomad made a cgroup. Below user.slice users make cgroups of whatever name they like.
func nomads(path string) bool {
	return (strings.Contains(path+"/", "/nomad/") || strings.Contains(path, "/nomad.slice/")) && !strings.HasPrefix(path, "/user.slice/")
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

// ofTask tells whether Nomad started the process, and for which task as far as its cgroup says.
func (h Host) ofTask(pid int) (alloc, task string, ok bool) {
	for _, path := range h.cgroups(pid) {
		ok = ok || nomads(path)
		alloc, task = taskOf(path)
		if alloc != "" {
			return alloc, task, true
		}
	}
	if ok {
		return "", "", true
	}
	environ, err := os.ReadFile(h.file(pid, "environ"))
	if err != nil {
		return "", "", false
	}
	return "", "", slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.HasPrefix(v, []byte("NOMAD_ALLOC_ID=")) })
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
