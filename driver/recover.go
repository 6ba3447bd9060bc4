package driver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/supervisor"
)

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
	err = d.police(t.uplinks, th.Config)
	if err != nil {
		d.log.Warn("cannot police a recovered task's network", "task_id", th.Config.ID, "error", err)
	}
	d.log.Info("recovered task", "task_id", th.Config.ID, "pid", task.Pid(), "running", h.running())
	return nil
}

// destroyLeft ends and removes a task that this process does not know.
func destroyLeft(ctx context.Context, t *tools, dir string) error {
	err := destroyUnknown(ctx, t, dir)
	if err != nil {
		return err
	}
	return cleanUp(t, dir, filepath.Base(dir))
}
