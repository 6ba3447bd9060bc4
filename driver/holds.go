package driver

import (
	"errors"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/gpu"
	"pangaea/driver/hold"
)

const (
	// holdTries is how often, and holdPause how far apart, a start looks again at a GPU that was granted to it and that
	// another task still has.
	holdTries = 30
	holdPause = 100 * time.Millisecond
)

func holdOf(cfg *drivers.TaskConfig, grants []gpu.Grant, dir string) hold.Hold {
	h := hold.Hold{Namespace: cfg.Namespace, JobID: cfg.JobID, AllocID: cfg.AllocID, Task: cfg.Name, TaskDir: dir}
	h.Grant(grants)
	return h
}

// takeHolds notes which GPUs the task has, unless somebody has one of them whom it must not meet there. That is no mistake
// of the job's and passes: the restart policy applies.
func (s *startup) takeHolds() error {
	if len(s.grants) == 0 {
		return nil
	}
	s.undone("cannot give back the task's GPUs", func() error { s.holds.Release(s.dir); return nil })
	h := holdOf(s.cfg, s.grants, s.dir)
	err := s.holds.Take(h, s.conf.AllowCrossNamespaceGPUs)
	for n := 0; n < holdTries && errors.Is(err, hold.ErrTaken) && s.ctx.Err() == nil; n++ {
		// It may be a task of which only the sweep knows that it is dead, or whose shim is just about to go.
		time.Sleep(holdPause)
		_ = s.d.sweepTasks(s.tools, false)
		err = s.holds.Take(h, s.conf.AllowCrossNamespaceGPUs)
	}
	if err != nil {
		s.d.log.Warn("a task cannot have its GPUs", "task_id", s.cfg.ID, "namespace", s.cfg.Namespace, "gpus", s.file.UUIDs, "error", err)
		return structs.NewRecoverableError(permitHold(err), true)
	}
	return nil
}

// keepHolds notes again which GPUs a recovered task has: one of an earlier version of the driver has none noted.
func (d *Driver) keepHolds(t *tools, h *handle) {
	grants, err := gpu.Grants(h.config.DeviceEnv)
	if err == nil && len(grants) > 0 && h.running() {
		err = t.holds.Keep(holdOf(h.config, grants, h.dir))
	}
	if err != nil {
		d.log.Warn("cannot note which GPUs a recovered task has", "task_id", h.config.ID, "error", err)
	}
}
