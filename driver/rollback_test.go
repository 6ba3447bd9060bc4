package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// What can't be ended still uses what was made before it: its identifiers must not go to another task, and its records
// must stay for the sweep.
func TestRollBackStopsAtWhatIsStillThere(t *testing.T) {
	cases := []struct {
		name, stuck, want string
	}{
		{"all goes", "", "task mount ids dir "},
		{"processes that stay keep everything", "task", "task "},
		{"a mount that stays keeps its identifiers", "mount", "task mount "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			done := ""
			s := &startup{d: New(hclog.NewNullLogger()), cfg: &drivers.TaskConfig{ID: "x"}}
			defer s.d.Shutdown()
			for _, what := range []string{"dir", "ids", "mount", "task"} {
				s.undone("cannot undo", func() error {
					done += what + " "
					if what == c.stuck {
						return errors.New("stuck")
					}
					return nil
				})
			}
			s.rollBack()
			must.Eq(t, c.want, done)
		})
	}
}

// A stop that is told it was in time must have been: the task may not turn up afterwards and run on.
func TestStopWhileStartEnds(t *testing.T) {
	cfg := &drivers.TaskConfig{ID: "x"}
	for _, stopFirst := range []bool{true, false} {
		d := New(hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		d.starting["x"] = &underway{cancel: cancel}
		s := &startup{d: d, ctx: ctx, cfg: cfg}
		if stopFirst {
			must.NoError(t, d.StopTask("x", time.Second, ""))
		}
		err := s.settle(&handle{config: cfg})
		must.Eq(t, stopFirst, err != nil)
		_, known := d.task("x")
		must.Eq(t, !stopFirst, known)
		if !stopFirst {
			must.False(t, d.abort("x"), must.Sprint("a stop now must stop the task, not its start"))
		}
		cancel()
		d.Shutdown()
	}
}

// A full disk must not be filled further by the directories of starts that failed on it.
func TestRootFullDiskLeavesNoDirectory(t *testing.T) {
	state := t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", state, "tmpfs", 0, "nr_inodes=3"))
	defer func() { must.NoError(t, unix.Unmount(state, 0)) }()
	dir := filepath.Join(state, "tasks", "one")
	err := makeTaskDir(dir, new(outlines).Take, func() error { return writeTaskFile(dir, taskFile{ID: "one"}) })
	must.ErrorIs(t, err, unix.ENOSPC)
	_, err = os.Lstat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}
