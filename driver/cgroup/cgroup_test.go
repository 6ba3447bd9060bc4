package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		path string
		ok   bool
	}{
		{"/nomad/alloc.task", true},
		{"/nomad.slice/share.slice/alloc.task.scope", true},
		{"", false},
		{"/", false},
		{"/nomad", false},
		{"nomad/alloc", false},
		{"/nomad/", false},
		{"/nomad/../system.slice", false},
		{"/nomad//x", false},
		{"/../etc/x", false},
	}
	for _, tc := range tests {
		t.Run(tc.path, func(t *testing.T) {
			_, err := New(tc.path)
			must.Eq(t, tc.ok, err == nil)
		})
	}
}

// files makes files with their content, and their directories.
func files(t *testing.T, root string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(root, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

func TestHierarchies(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		dirs  []string
		pids  []int
		ooms  uint64
		forks uint64
	}{
		{
			name: "v1",
			files: map[string]string{
				"devices/a/b/cgroup.procs": "50\n51\n", "memory/a/b/cgroup.procs": "51\n52\n",
				"memory/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "pids/a/b/pids.events": "max 8\n",
				"pids/other/cgroup.procs": "99\n",
			},
			dirs: []string{"devices/a/b", "memory/a/b", "pids/a/b"}, pids: []int{50, 51, 52}, ooms: 3, forks: 8,
		},
		{
			name: "v2",
			files: map[string]string{
				"cgroup.controllers": "memory", "a/b/cgroup.procs": "50\n", "a/b/deep/er/cgroup.procs": "60\n",
				"a/b/memory.events": "low 0\noom 9\noom_kill 4\noom_group_kill 7\n", "a/cgroup.procs": "98\n",
				"a/b/pids.events": "max 6\n",
			},
			dirs: []string{"a/b"}, pids: []int{50, 60}, ooms: 4, forks: 6,
		},
		{
			name:  "never a process outside the namespace, the machine's init or ourselves",
			files: map[string]string{"devices/a/b/cgroup.procs": fmt.Sprintf("0\n1\n%d\n53\nx\n", os.Getpid())},
			dirs:  []string{"devices/a/b"}, pids: []int{53},
		},
		{name: "nothing there", files: map[string]string{"devices/a/cgroup.procs": "97\n"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			files(t, root, tc.files)
			task, err := in(root, "/a/b")
			must.NoError(t, err)
			var dirs []string
			for _, dir := range task.Dirs() {
				rel, err := filepath.Rel(root, dir)
				must.NoError(t, err)
				dirs = append(dirs, rel)
			}
			must.Eq(t, tc.dirs, dirs)
			must.Eq(t, tc.pids, task.Pids())
			must.Eq(t, tc.ooms, task.OOMKills())
			must.Eq(t, tc.forks, task.ForksRefused())
		})
	}
}

func TestOwn(t *testing.T) {
	tests := []struct{ name, list, file, want string }{
		{"v2", "0::/sys/x\n", "sys/x/cgroup.procs", "sys/x/cgroup.procs"},
		{"v1", "12:pids:/p\n0::/u\n", "pids/p/cgroup.procs", "pids/p/cgroup.procs"},
		{"hybrid", "0::/u\n", "unified/u/cgroup.procs", "unified/u/cgroup.procs"},
		{"not mounted", "12:pids:/p\n", "other/p/cgroup.procs", ""},
		{"malformed", "nonsense\n", "x", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			files(t, root, map[string]string{"list": tc.list, tc.file: ""})
			want := ""
			if tc.want != "" {
				want = filepath.Join(root, tc.want)
			}
			must.Eq(t, want, own(filepath.Join(root, "list"), root))
		})
	}
}

// Real cgroups, in every hierarchy of the machine, with processes that fork.
func TestRootKillAndRemove(t *testing.T) {
	task, err := New(fmt.Sprintf("/pangaea-cgroup-test-%d/task", os.Getpid()))
	must.NoError(t, err)
	parents := parents(t, task)
	cmd := exec.Command("/bin/sh", "-c", "read go; while true; do sleep 0.01; done")
	in, err := cmd.StdinPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	for _, dir := range task.Dirs() {
		must.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0))
	}
	_, err = in.Write([]byte("go\n"))
	must.NoError(t, err)

	full, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	must.ErrorContains(t, task.Remove(full), "cannot remove cgroup", must.Sprint("it is in use"))
	must.NoError(t, task.KillAll(t.Context()))
	must.Eq(t, "signal: killed", cmd.Wait().Error())
	must.SliceEmpty(t, task.Pids())
	must.NoError(t, task.Remove(t.Context()))
	must.SliceEmpty(t, task.Dirs())
	must.NoError(t, task.KillAll(t.Context()))
	must.NoError(t, task.Remove(t.Context()))
	for _, dir := range parents {
		must.NoError(t, os.Remove(dir))
	}
}

// parents makes the task's cgroups where no settings are needed to join, and lists the directories above them.
func parents(t *testing.T, task Task) []string {
	t.Helper()
	dirs := []string{task.Dir("")}
	if !task.Unified() {
		dirs = []string{task.Dir("freezer"), task.Dir("pids"), task.Dir("devices")}
	}
	var above []string
	for _, dir := range dirs {
		must.NoError(t, os.MkdirAll(dir, 0o755))
		above = append(above, filepath.Dir(dir))
	}
	return above
}

func TestRootWarm(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	must.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	Warm(ctx)
	after, err := os.ReadFile("/proc/self/cgroup")
	must.NoError(t, err)
	must.Eq(t, string(before), string(after))
	must.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, must.Sprint("it found something to warm"))
}
