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

	"pangaea/driver/gpu"
	"pangaea/driver/hold"
	"pangaea/driver/record"
)

func TestLook(t *testing.T) {
	boot, err := record.BootID()
	must.NoError(t, err)
	launch := func(dir string) error {
		return record.WriteLaunch(dir, &record.Launch{Version: record.Version, ID: "x", BootID: boot, RuntimeKind: "pangaea", CgroupsPath: "/pangaea-none/x"})
	}
	state := func(dir string) error { return record.WriteState(dir, &record.State{Version: record.Version, ID: "x"}) }
	lives := func(dir string) error {
		start, err := record.StartTime(os.Getpid())
		must.NoError(t, err)
		return record.WriteState(dir, &record.State{Version: record.Version, ID: "x", Pid: os.Getpid(), StartTime: start, ShimPid: os.Getpid(), ShimStartTime: start})
	}
	waits := func(dir string) error {
		must.NoError(t, os.MkdirAll(filepath.Join(dir, record.RuntimeDir, "x"), 0o700))
		return os.WriteFile(filepath.Join(dir, record.RuntimeDir, "x", "exec.fifo"), nil, 0o600)
	}
	exit := func(dir string) error { return record.WriteExit(dir, &record.Exit{Version: record.Version}) }
	type files []func(dir string) error
	cases := []struct {
		name               string
		noRecord           bool
		files              files
		here, gone, noDisk [2]claim // by whether it is late: its allocation's directory is there, it is not, none is
	}{
		{"nothing of it but its directory", true, nil, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}},
		{"its removal was cut short", true, files{launch, exit}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}},
		{"its start was cut short", false, nil, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}},
		{"its shim did not get on", false, files{launch}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}},
		{"its program was never started", false, files{launch, state, waits}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{unwanted, unwanted}},
		{"it runs", false, files{launch, lives}, [2]claim{wanted, wanted}, [2]claim{wanted, unwanted}, [2]claim{wanted, wanted}},
		{"it has ended", false, files{launch, state, exit}, [2]claim{spent, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{spent, unwanted}},
		{"it has ended and nobody knows how", false, files{launch, state}, [2]claim{spent, unwanted}, [2]claim{unwanted, unwanted}, [2]claim{spent, unwanted}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, allocs := t.TempDir(), filepath.Join(t.TempDir(), "alloc")
			alloc := filepath.Join(allocs, "a")
			must.NoError(t, os.MkdirAll(alloc, 0o700))
			if !c.noRecord {
				must.NoError(t, writeTaskFile(dir, taskFile{AllocDir: alloc}))
			}
			for _, write := range c.files {
				must.NoError(t, write(dir))
			}
			for i, late := range []bool{false, true} {
				must.Eq(t, c.here[i], look(dir, late), must.Sprint(late))
			}
			must.NoError(t, os.Remove(alloc))
			for i, late := range []bool{false, true} {
				must.Eq(t, c.gone[i], look(dir, late), must.Sprint("gone ", late))
			}
			must.NoError(t, os.Remove(allocs))
			for i, late := range []bool{false, true} {
				must.Eq(t, c.noDisk[i], look(dir, late), must.Sprint("no disk ", late))
			}
		})
	}
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, taskRecord), []byte("{"), 0o600))
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
	must.False(t, d.reserve(earlier), must.Sprint("it is swept already"))
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
	ended, running, gone := w.task(t, sh("exit 1")), w.task(t, sh("sleep 600")), w.task(t, sh("sleep 600"))
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

// A start that was cut short, and that nobody repeats, must not keep its GPU from the next task.
func TestRootSweepFreesGPU(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldsDir = t.TempDir() })
	tools, err := w.driver.open()
	must.NoError(t, err)
	grants := []gpu.Grant{{ID: "GPU-a", UUID: "GPU-a"}}
	dead := w.driver.settings().taskDir(sandboxID("b/web/1"))
	must.NoError(t, makeTaskDir(dead, new(outlines).Take, func() error { return writeTaskFile(dead, taskFile{TaskID: "b/web/1", AllocDir: w.state}) }))
	must.NoError(t, tools.holds.Take(holdOf(&drivers.TaskConfig{AllocID: "b", Name: "web"}, grants, dead), false))

	cfg := &drivers.TaskConfig{ID: "a/web/1", AllocID: "a", Name: "web"}
	start, done, err := w.driver.begin(cfg)
	must.NoError(t, err)
	defer done()
	start.grants, start.dir = grants, t.TempDir()
	must.NoError(t, start.takeHolds())
	must.DirNotExists(t, dead)
	other, otherDone, err := w.driver.begin(&drivers.TaskConfig{ID: "c/web/1", AllocID: "c", Name: "web"})
	must.NoError(t, err)
	defer otherDone()
	other.grants, other.dir = grants, t.TempDir()
	must.ErrorIs(t, other.takeHolds(), hold.ErrTaken)
}
