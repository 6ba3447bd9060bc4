package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/record"
	"pangaea/driver/supervisor"
)

// recoverGrace is how long after the start of the plugin its client may still come to recover tasks.
const recoverGrace = 10 * time.Minute

// RecoverTask finds a task again after a restart of the plugin, running or ended. It may be repeated.
func (d *Driver) RecoverTask(th *drivers.TaskHandle) error {
	if th == nil || th.Config == nil {
		return errors.New("cannot recover a task: Nomad handed over no handle")
	}
	if th.Version != handleVersion {
		return fmt.Errorf("cannot recover the task: its handle is of version %d and this driver knows %d", th.Version, handleVersion)
	}
	if _, ok := d.task(th.Config.ID); ok {
		return nil
	}
	t, err := d.open()
	if err != nil {
		return err
	}
	dir := d.settings().taskDir(sandboxID(th.Config.ID))
	file, err := readTaskFile(dir)
	if err != nil {
		return fmt.Errorf("cannot recover the task: %w", err)
	}
	task, err := t.supervisor.Recover(dir)
	if errors.Is(err, supervisor.ErrGone) {
		// Nomad has a handle, so it was started. Failing here would have Nomad start it anew past its restart policy.
		task, err = t.supervisor.Lost(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot recover the task: %w", err)
	}
	h := d.newHandle(th.Config, file, dir, task)
	if d.keep(h) {
		d.watchHealth(h)
		d.keepOwners(t, h)
	}
	d.keepHolds(t, h)
	d.noteAllocDir(th.Config.AllocDir)
	d.reclaimNetwork(th.Config, dir)
	d.log.Info("recovered task", "task_id", th.Config.ID, "pid", task.Pid(), "running", h.running())
	return nil
}

// sweep removes what no client will come back for, once every client has had the time to come back: tasks that have
// ended unseen, what a killed start left half-made, mounts without a task. A task that may still run is ended only if
// its allocation is gone from the disk as well.
func (d *Driver) sweep() {
	timer := time.NewTimer(recoverGrace)
	defer timer.Stop()
	select {
	case <-d.ctx.Done():
		return
	case <-timer.C:
	}
	t, err := d.open()
	if err != nil {
		d.log.Warn("cannot sweep", "error", err)
		return
	}
	d.sweepTasks(t)
}

func (d *Driver) sweepTasks(t *tools) {
	root := filepath.Join(d.settings().StateDir, "tasks")
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("cannot sweep", "error", err)
		return
	}
	var kept []string
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if d.inUse(e.Name()) || !leftover(dir) {
			kept = append(kept, e.Name())
			continue
		}
		err := destroyLeft(d.ctx, t, dir)
		d.log.Info("swept a dead task", "sandbox", e.Name(), "error", err)
	}
	mounts, err := t.images.Mounts()
	if err != nil {
		d.log.Warn("cannot sweep mounts", "error", err)
	}
	for _, id := range mounts {
		if slices.Contains(kept, id) || d.inUse(id) {
			continue
		}
		err := t.images.Unmount(id)
		d.log.Info("swept a mount", "sandbox", id, "error", err)
	}
}

// inUse tells whether a sandbox belongs to a task that this process knows or starts.
func (d *Driver) inUse(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for taskID := range d.tasks {
		if sandboxID(taskID) == id {
			return true
		}
	}
	for taskID := range d.starting {
		if sandboxID(taskID) == id {
			return true
		}
	}
	return false
}

// leftover tells whether nobody will want what is in dir: it has ended, or never got so far as to have a record, or
// its allocation is gone.
func leftover(dir string) bool {
	file, err := readTaskFile(dir)
	if err != nil {
		return true
	}
	_, err = os.Stat(filepath.Join(dir, record.ExitFile))
	if err == nil {
		return true
	}
	_, err = os.Stat(filepath.Join(dir, record.LaunchFile))
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	_, err = os.Stat(file.AllocDir)
	return errors.Is(err, os.ErrNotExist)
}

// destroyLeft ends and removes a task that this process does not know.
func destroyLeft(ctx context.Context, t *tools, dir string) error {
	err := destroyUnknown(ctx, t, dir)
	if err != nil {
		return err
	}
	return cleanUp(t, dir, filepath.Base(dir))
}
