package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pangaea/driver/supervisor"
)

const (
	// recoverGrace is how long after the start of the plugin its client may still come to recover tasks.
	recoverGrace = 10 * time.Minute
	// sweepPause is between two looks at what nobody comes for.
	sweepPause = 10 * time.Second
)

// sweep removes what nobody will come for, from the start of the plugin on. Nomad tells a driver once that a task is
// to be removed and does not repeat it: not to the next plugin, when this one is killed just then, nor when it failed.
func (d *Driver) sweep() {
	began, told := time.Now(), ""
	ticker := time.NewTicker(sweepPause)
	defer ticker.Stop()
	for {
		t, err := d.open()
		if err == nil {
			err = d.sweepTasks(t, time.Since(began) > recoverGrace)
		}
		if err != nil && err.Error() != told {
			d.log.Warn("cannot sweep", "error", err)
			told = err.Error()
		}
		select {
		case <-d.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// sweepTasks is one look. Late says that all who may recover a task have had the time to.
func (d *Driver) sweepTasks(t *tools, late bool) error {
	for _, id := range d.condemned() {
		err := d.DestroyTask(id, true)
		d.log.Info("tried again to remove a task", "task_id", id, "error", err)
	}
	root := filepath.Join(d.settings().StateDir, "tasks")
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot list the tasks: %w", err)
	}
	var kept []string
	for _, e := range entries {
		kept = append(kept, e.Name())
		d.sweepTask(t, filepath.Join(root, e.Name()), late)
	}
	if !late {
		return nil
	}
	mounts, err := t.images.Mounts()
	for _, id := range mounts {
		if slices.Contains(kept, id) || !d.reserve(id) {
			continue
		}
		err := t.images.Unmount(id)
		d.unreserve(id)
		d.log.Info("swept a mount", "sandbox", id, "error", err)
	}
	return err
}

func (d *Driver) sweepTask(t *tools, dir string, late bool) {
	id := filepath.Base(dir)
	if !d.reserve(id) {
		return
	}
	defer d.unreserve(id)
	var err error
	switch look(dir, late) {
	case unwanted:
		err = destroyLeft(d.ctx, t, dir)
		d.log.Info("swept a task that nobody came for", "sandbox", id, "error", err)
	case spent:
		err = emptyOut(d.ctx, t, dir)
		if err != nil {
			d.log.Warn("cannot take down a task that has ended", "sandbox", id, "error", err)
		}
	case wanted:
	}
}

// claim is what somebody may still want of a task that this process does not know.
type claim int

const (
	wanted   claim = iota // all: it may run
	spent                 // how it ended, and nothing else
	unwanted              // nothing
)

// look judges by what lies on the disk. Before it is late, a client may come for all that Nomad may have been told of,
// and an exit code must not be lost. A task that may run is ended only if its allocation is gone from the disk as well.
func look(dir string, late bool) claim {
	file, err := readTaskFile(dir)
	if errors.Is(err, os.ErrNotExist) {
		return unwanted // the record is made first and removed first
	}
	if err != nil && !late {
		return wanted
	}
	gone := err != nil || isGone(file.AllocDir)
	runs, started := supervisor.Standing(dir)
	switch {
	case runs && late && gone, !runs && (late || gone || !started):
		return unwanted
	case runs:
		return wanted
	}
	return spent
}

// isGone says whether an allocation's directory was removed. One whose disk is not there at all may come back.
func isGone(dir string) bool { return missing(dir) && !missing(filepath.Dir(dir)) }

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

// emptyOut removes what is left of a task that has ended, except for the record of how.
func emptyOut(ctx context.Context, t *tools, dir string) error {
	err := destroyUnknown(ctx, t, dir)
	if err == nil {
		err = t.images.Unmount(filepath.Base(dir))
	}
	if err == nil {
		err = returnNetwork(dir)
	}
	if err == nil {
		err = unmountNetwork(dir)
	}
	return err
}

// condemned are known tasks whose removal has failed.
func (d *Driver) condemned() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for id, h := range d.tasks {
		if h.condemned {
			ids = append(ids, id)
		}
	}
	return ids
}

// inUse tells whether a sandbox belongs to a task that this process knows or starts.
func (d *Driver) inUse(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.knows(func(sandbox string) bool { return sandbox == id })
}

// knows looks through the tasks that run or start. The caller holds mu.
func (d *Driver) knows(is func(sandbox string) bool) bool {
	for taskID := range d.tasks {
		if is(sandboxID(taskID)) {
			return true
		}
	}
	for taskID := range d.starting {
		if is(sandboxID(taskID)) {
			return true
		}
	}
	return false
}

// reserve keeps starts away from a sandbox while it is swept, and says false if it is swept already, or if there is a start
// of the same task, under way or done: that cleans up itself, and has the same cgroup.
func (d *Driver) reserve(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sweeping[id] != nil || d.knows(func(sandbox string) bool { return sameTask(id, sandbox) }) {
		return false
	}
	d.sweeping[id] = make(chan struct{})
	return true
}

func (d *Driver) unreserve(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.sweeping[id])
	delete(d.sweeping, id)
}

// awaitSwept waits until the sweep has let go of a sandbox.
func (s *startup) awaitSwept(id string) error {
	s.d.mu.Lock()
	swept := s.d.sweeping[id]
	s.d.mu.Unlock()
	if swept == nil {
		return nil
	}
	select {
	case <-swept:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
