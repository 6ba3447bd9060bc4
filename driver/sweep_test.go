package driver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

func TestLook(t *testing.T) {
	const task, launch, exit = taskRecord, record.LaunchFile, record.ExitFile
	cases := []struct {
		name  string
		files []string
		gone  bool // the allocation's directory
		disk  bool // is gone with all allocations
		now   claim
		late  claim
	}{
		{name: "nothing of it but its directory", now: unwanted, late: unwanted},
		{name: "its removal was cut short", files: []string{launch, exit}, now: unwanted, late: unwanted},
		{name: "its start was cut short", files: []string{task}, now: wanted, late: unwanted},
		{name: "its start was cut short, and its allocation is gone", files: []string{task}, gone: true, now: unwanted, late: unwanted},
		{name: "it may run", files: []string{task, launch}, now: wanted, late: wanted},
		{name: "it may run, and its allocation is gone", files: []string{task, launch}, gone: true, now: wanted, late: unwanted},
		{name: "it may run, and its disk is gone", files: []string{task, launch}, gone: true, disk: true, now: wanted, late: wanted},
		{name: "it has ended", files: []string{task, launch, exit}, now: spent, late: unwanted},
		{name: "it has ended, and its allocation is gone", files: []string{task, launch, exit}, gone: true, now: unwanted, late: unwanted},
		{name: "it has ended, and its disk is gone", files: []string{task, launch, exit}, gone: true, disk: true, now: spent, late: unwanted},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, allocs := t.TempDir(), filepath.Join(t.TempDir(), "alloc")
			for _, name := range c.files {
				must.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
				if name == task {
					must.NoError(t, writeTaskFile(dir, taskFile{AllocDir: filepath.Join(allocs, "a")}))
				}
			}
			if !c.disk {
				must.NoError(t, os.Mkdir(allocs, 0o700))
			}
			if !c.gone {
				must.NoError(t, os.Mkdir(filepath.Join(allocs, "a"), 0o700))
			}
			must.Eq(t, c.now, look(dir, false))
			must.Eq(t, c.late, look(dir, true))
		})
	}
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, task), []byte("{"), 0o600))
	must.Eq(t, wanted, look(dir, false), must.Sprint("a record that can't be read"))
	must.Eq(t, unwanted, look(dir, true), must.Sprint("a record that can't be read"))
}

// The sweep and a start must not work on the same sandbox, nor on two of the same task: they share a cgroup.
func TestSweepKeepsAwayFromStarts(t *testing.T) {
	d := New(hclog.NewNullLogger())
	t.Cleanup(d.Shutdown)
	d.conf = newSettings(Config{StateDir: t.TempDir()})
	earlier := sandboxID("a/web/1")
	must.True(t, d.reserve(earlier))
	must.NoError(t, os.MkdirAll(d.conf.taskDir(earlier), 0o700))
	start, done, err := d.begin(&drivers.TaskConfig{ID: "a/web/2", AllocID: "a", Name: "web"})
	must.NoError(t, err)
	cleaned := make(chan error, 1)
	go func() { cleaned <- start.endEarlier() }()
	select {
	case err := <-cleaned:
		t.Fatal("the start did not wait for the sweep: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	d.unreserve(earlier)
	must.NoError(t, <-cleaned)
	must.False(t, d.reserve(earlier), must.Sprint("a start of the same task is under way"))
	must.False(t, d.reserve(sandboxID("a/web/2")))
	must.True(t, d.reserve(sandboxID("a/web-b/1")))
	done()
	must.True(t, d.reserve(earlier))
}

func TestRootSweep(t *testing.T) {
	w := newWorld(t, nil)
	ended, running, gone := w.task(t, sh("exit 1")), w.task(t, sh("sleep 60")), w.task(t, sh("sleep 60"))
	for _, cfg := range []*drivers.TaskConfig{ended, running, gone} {
		w.start(t, cfg)
	}
	w.wait(t, ended.ID)
	h, _ := w.driver.task(gone.ID)
	h.file.AllocDir = filepath.Join(w.state, "no-such-allocation")
	must.NoError(t, writeTaskFile(h.dir, h.file))
	w.restart(t)
	w.sweep(t, true)
	left, err := os.ReadDir(filepath.Join(w.state, "tasks"))
	must.NoError(t, err)
	must.Len(t, 1, left, must.Sprint("only the task that may still be recovered stays"))
	must.Eq(t, sandboxID(running.ID), left[0].Name())
	must.Eq(t, []string{sandboxID(running.ID)}, w.roots(t))
}

func (w *world) sweep(t *testing.T, late bool) {
	t.Helper()
	tools, err := w.driver.open()
	must.NoError(t, err)
	must.NoError(t, w.driver.sweepTasks(tools, late))
}

// roots lists the tasks that have a root file system.
func (w *world) roots(t *testing.T) []string {
	t.Helper()
	tools, err := w.driver.open()
	must.NoError(t, err)
	ids, err := tools.images.Mounts()
	must.NoError(t, err)
	return ids
}

// Nomad does not repeat the removal of a task that finds the plugin dead. The next plugin takes it down at once, and
// still knows how it ended.
func TestRootSweepKeepsExitCode(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("exit 6"))
	handle := w.start(t, cfg)
	w.wait(t, cfg.ID)
	w.restart(t)
	for range 2 {
		w.sweep(t, false)
	}
	must.SliceEmpty(t, w.roots(t))
	for _, mount := range w.mounts() {
		must.StrNotContains(t, mount, sandboxID(cfg.ID))
	}
	must.NoError(t, w.harness.RecoverTask(handle))
	must.Eq(t, 6, w.wait(t, cfg.ID).ExitCode)

	w.restart(t)
	must.NoError(t, os.Rename(cfg.AllocDir, cfg.AllocDir+".gone"))
	w.sweep(t, false)
	must.NoError(t, os.Rename(cfg.AllocDir+".gone", cfg.AllocDir))
	must.DirNotExists(t, filepath.Join(w.state, "tasks", sandboxID(cfg.ID)))
}

// Nor does it repeat one that has failed.
func TestRootSweepTriesAgain(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("exit 6"))
	w.start(t, cfg)
	w.wait(t, cfg.ID)
	dir := w.driver.settings().taskDir(sandboxID(cfg.ID))
	stuck := filepath.Join(dir, "stuck")
	must.NoError(t, os.Mkdir(stuck, 0o700))
	must.NoError(t, unix.Mount("tmpfs", stuck, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(stuck, unix.MNT_DETACH) }()
	must.ErrorContains(t, w.harness.DestroyTask(cfg.ID, false), "cannot remove the task's directory")
	w.sweep(t, false)
	must.DirExists(t, dir)
	must.NoError(t, unix.Unmount(stuck, 0))
	w.sweep(t, false)
	must.DirNotExists(t, dir)
	_, known := w.driver.task(cfg.ID)
	must.False(t, known)
}
