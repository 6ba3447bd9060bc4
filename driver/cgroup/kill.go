package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pids lists the processes in the task's cgroups and below, each once.
func (t Task) Pids() []int {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range t.Dirs() {
		for _, sub := range tree(dir) {
			for _, pid := range pidsIn(sub) {
				if !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// tree lists dir and all directories below it, parents first. Mostly there are none below, which a cgroup's number of
// links tells: to read the directories of all hierarchies would be most of what it takes to find a task's processes.
func tree(dir string) []string {
	var stat unix.Stat_t
	err := unix.Lstat(dir, &stat)
	if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR && stat.Nlink == 2 {
		return []string{dir}
	}
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		// A directory that vanishes meanwhile is one less to look at.
		return nil
	})
	return dirs
}

func pidsIn(dir string) []int {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		// A pid of 0 is a process outside this pid namespace; 1 is the machine's init.
		if err == nil && pid > 1 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Kill sends SIGKILL to all processes of the task, once. On v2 the kernel does so in one step that no fork can
// outrun (Linux 5.14); on v1 the cgroup is frozen meanwhile for the same reason.
func (t Task) Kill() {
	whole := false
	for _, dir := range t.Dirs() {
		if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
			whole = true
		}
	}
	if whole && len(t.Pids()) == 0 {
		return
	}
	freezer := filepath.Join(t.Dir("freezer"), "freezer.state")
	_ = os.WriteFile(freezer, []byte("FROZEN"), 0)
	for _, pid := range t.Pids() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	// A frozen process dies only when it thaws.
	_ = os.WriteFile(freezer, []byte("THAWED"), 0)
}

// KillAll kills until the task's cgroups are empty or ctx ends.
func (t Task) KillAll(ctx context.Context) error {
	pause := time.Millisecond
	for len(t.Pids()) > 0 {
		t.Kill()
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot kill all processes of cgroup %s: %d left: %w", t.path, len(t.Pids()), ctx.Err())
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
	return nil
}

// Remove removes the task's empty cgroups. A dying process keeps its cgroup busy for a moment after it has left
// cgroup.procs, so it tries until ctx ends.
func (t Task) Remove(ctx context.Context) error {
	pause := time.Millisecond
	for {
		err := t.removeOnce()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot remove cgroup %s: %w", t.path, err)
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

func (t Task) removeOnce() error {
	var failed error
	for _, dir := range t.Dirs() {
		dirs := tree(dir)
		slices.Reverse(dirs)
		for _, sub := range dirs {
			err := unix.Rmdir(sub)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				failed = err
			}
		}
	}
	return failed
}
