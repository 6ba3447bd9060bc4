package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Root is where Linux systems mount the cgroup hierarchies.
const Root = "/sys/fs/cgroup"

// ErrUnsafePath says that a cgroup path is not one that could be a task's own.
var ErrUnsafePath = errors.New("the cgroup path must be absolute, clean and at least two directories deep")

// Task is the set of one task's cgroup directories.
type Task struct{ root, path string }

// New returns the cgroups below Root that have that path. They need not exist.
func New(path string) (Task, error) { return in(Root, path) }

func in(root, path string) (Task, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.Count(path, "/") < 2 {
		return Task{}, ErrUnsafePath
	}
	return Task{root: root, path: path}, nil
}

// Unified says whether the machine has only cgroup v2.
func (t Task) Unified() bool {
	_, err := os.Stat(filepath.Join(t.root, "cgroup.controllers"))
	return err == nil
}

// Dirs lists the task's directories that exist, one per hierarchy.
func (t Task) Dirs() []string {
	if t.Unified() {
		return existing([]string{filepath.Join(t.root, t.path)})
	}
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, entry := range entries {
		// Symlinks such as cpuacct -> cpu,cpuacct name a hierarchy a second time.
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join(t.root, entry.Name(), t.path))
		}
	}
	return existing(dirs)
}

func existing(dirs []string) []string {
	var found []string
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() {
			found = append(found, dir)
		}
	}
	return found
}

// Dir is the task's directory of one controller; on cgroup v2 all controllers share one.
func (t Task) Dir(controller string) string {
	if t.Unified() {
		return filepath.Join(t.root, t.path)
	}
	return filepath.Join(t.root, controller, t.path)
}

// OOMKills counts the task's processes that the kernel killed for want of memory.
func (t Task) OOMKills() uint64 {
	file := "memory.oom_control"
	if t.Unified() {
		file = "memory.events"
	}
	return t.count("memory", file, "oom_kill")
}

// ForksRefused counts the processes and threads that the kernel refused the task for their number.
func (t Task) ForksRefused() uint64 { return t.count("pids", "pids.events", "max") }

// count reads one number of a controller's file of several; 0 if it is not there.
func (t Task) count(controller, file, name string) uint64 {
	data, err := os.ReadFile(filepath.Join(t.Dir(controller), file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		value, found := strings.CutPrefix(strings.TrimSpace(line), name+" ")
		if found {
			number, _ := strconv.ParseUint(value, 10, 64)
			return number
		}
	}
	return 0
}
