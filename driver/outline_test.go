package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestOutlines(t *testing.T) {
	root := t.TempDir()
	o := &outlines{dir: filepath.Join(root, "outlines")}
	waiting := func() []os.DirEntry {
		t.Helper()
		entries, err := os.ReadDir(o.dir)
		if !os.IsNotExist(err) {
			must.NoError(t, err)
		}
		return entries
	}
	task := func(name string) string { return filepath.Join(root, name) }

	must.NoError(t, o.Take(task("unprepared")))
	must.SliceEmpty(t, list(t, task("unprepared")))
	must.NoError(t, o.Make())
	must.NoError(t, o.Make())
	must.Len(t, 1, waiting(), must.Sprint("one is enough"))
	must.NoError(t, o.Take(task("prepared")))
	must.SliceEmpty(t, waiting())
	must.SliceContains(t, list(t, task("prepared")), "shim.log")
	must.SliceNotContains(t, list(t, task("prepared")), taskRecord, must.Sprint("nothing that is not written yet"))

	must.NoError(t, o.Make())
	must.ErrorIs(t, o.Take(task("prepared")), os.ErrExist)
	must.NoError(t, o.Make())
	must.NoError(t, os.RemoveAll(filepath.Join(o.dir, waiting()[0].Name())))
	must.NoError(t, o.Take(task("whose outline was deleted")))

	must.NoError(t, o.Make())
	must.NoError(t, os.Mkdir(filepath.Join(o.dir, "of a killed plugin"), 0o700))
	must.NoError(t, o.Clear())
	must.SliceEmpty(t, waiting())
	must.NoError(t, o.Make())
	other := &outlines{dir: o.dir}
	must.NoError(t, other.Clear())
	must.Len(t, 1, waiting(), must.Sprint("another process may be about to take it"))
	must.NoError(t, o.Clear())
	must.SliceEmpty(t, waiting())

	file := task("file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	must.ErrorContains(t, (&outlines{dir: filepath.Join(file, "x")}).Make(), "ahead of it")
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// All that a start fills is there before, and nothing is there that it does not fill: else the outline misses its purpose
// as the start changes.
func TestRootOutlineFits(t *testing.T) {
	w := newWorld(t, nil)
	tools, err := w.driver.open()
	must.NoError(t, err)
	must.NoError(t, tools.outlines.Make())
	empty := w.state + "/empty"
	must.NoError(t, os.Mkdir(empty, 0o700))
	must.NoError(t, outline(empty))
	cfg := w.prepare(t, sh("sleep 600"), false)
	w.start(t, cfg)
	dir := w.driver.settings().taskDir(sandboxID(cfg.ID))
	left := list(t, dir)
	for _, name := range []string{"config.json", "shim.log", "shim.lock", "runtime.log", "etc", "sys", "netns"} {
		must.SliceContains(t, left, name)
		must.SliceContains(t, list(t, empty), name)
	}
	for _, name := range []string{taskRecord + "~", ".launch.new", ".state.new"} {
		must.SliceNotContains(t, left, name, must.Sprint("it has its real name by now"))
		must.SliceContains(t, list(t, empty), name)
	}
	must.Eq(t, list(t, etcDir(empty)), list(t, etcDir(dir)))
}
