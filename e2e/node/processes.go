package node

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pangaea/driver/record"
)

// Process is a process of the node's.
type Process struct {
	PID  int
	Args []string
	// Cgroups is /proc/PID/cgroup, which names the allocation of a task's process.
	Cgroups string
}

// Processes lists what belongs to the node: agents, plugins, log collectors, shims, runtimes and tasks.
func (n *Node) Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, ours := n.look(pid)
		if ours {
			found = append(found, p)
		}
	}
	return found, nil
}

// look tells whether a process is ours, by what it was started with or by the cgroup that it is in. One that dies
// meanwhile is not.
func (n *Node) look(pid int) (Process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, false
	}
	environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
	cgroups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	if exe == "" {
		return Process{}, false // a zombie or a kernel thread
	}
	p := Process{PID: pid, Args: strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"), Cgroups: string(cgroups)}
	ours := strings.HasPrefix(exe, n.Dir+"/") || strings.Contains(string(args), n.Dir+"/") ||
		slices.Contains(strings.Split(string(environ), "\x00"), marker+n.Dir) ||
		n.inCgroup(p)
	return p, ours
}

// inCgroup tells whether a process is in a cgroup of the node's allocations, which are named ALLOCATION.TASK.
func (n *Node) inCgroup(p Process) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	const length = 36 // of an allocation's ID
	for name := range strings.FieldsFuncSeq(p.Cgroups, func(r rune) bool { return r == '/' || r == '\n' }) {
		if len(name) >= length && n.allocs[name[:length]] {
			return true
		}
	}
	return false
}

// Find lists the pids of the node's processes that match.
func (n *Node) Find(match func(Process) bool) ([]int, error) {
	all, err := n.Processes()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range all {
		if match(p) {
			pids = append(pids, p.PID)
		}
	}
	return pids, nil
}

// Plugin finds the process of a plugin, "pangaea-driver" or "pangaea-device", but not one that it forks and that has not
// become another program yet. While Nomad starts there may be two.
func (n *Node) Plugin(name string) ([]int, error) {
	pids, err := n.Find(func(p Process) bool { return p.Args[0] == filepath.Join(n.Dir, "plugins", name) })
	own := slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(text), ") ") // a plugin's name has no parentheses
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return true // it has gone
		}
		parent, err := strconv.Atoi(fields[1])
		return err == nil && slices.Contains(pids, parent)
	})
	return own, err
}

// Logmons finds Nomad's log collectors: there is one per task.
func (n *Node) Logmons() ([]int, error) {
	return n.Find(func(p Process) bool { return len(p.Args) > 1 && p.Args[1] == "logmon" })
}

// Shims finds the shims of an allocation's tasks, of all tasks if it is "".
func (n *Node) Shims(alloc string) ([]int, error) {
	// One that was started ahead of its task does not have the task in its arguments.
	states, err := filepath.Glob(filepath.Join(n.StateDir(), "tasks", alloc[:min(8, len(alloc))]+"*", record.StateFile))
	var pids []int
	for _, path := range states {
		state, err := record.ReadState(filepath.Dir(path))
		if err == nil && record.Alive(state.ShimPid, state.ShimStartTime) {
			pids = append(pids, state.ShimPid)
		}
	}
	return pids, err
}

// Tasks finds the processes in an allocation's sandboxes.
func (n *Node) Tasks(alloc string) ([]int, error) {
	n.know(alloc)
	return n.Find(func(p Process) bool { return strings.Contains(p.Cgroups, alloc) })
}

// know remembers an allocation, so that what it leaves is found.
func (n *Node) know(alloc string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if alloc != "" {
		n.allocs[alloc] = true
	}
}

// known lists the allocations that the node has had.
func (n *Node) known() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.allocs))
}

// killRest kills until nothing of the node's is left.
func (n *Node) killRest() error {
	var left []Process
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollPause) {
		var err error
		left, err = n.Processes()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, p := range left {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("cannot kill %v", left)
}
