package driver

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/supervisor"
)

// event tells a task's user something, in the list of events that nomad alloc status shows.
func (d *Driver) event(cfg *drivers.TaskConfig, message string, annotations map[string]string) {
	err := d.events.EmitEvent(&drivers.TaskEvent{
		TaskID: cfg.ID, TaskName: cfg.Name, AllocID: cfg.AllocID, Timestamp: time.Now(), Message: message, Annotations: annotations,
	})
	if err != nil {
		d.log.Debug("cannot emit a task event", "task_id", cfg.ID, "error", err)
	}
}

// tellEnd tells once what a task's exit code does not.
func (d *Driver) tellEnd(h *handle, e supervisor.Exit) {
	h.ended.Do(func() {
		if e.OOMKilled {
			d.event(h.config, "The kernel killed a process of the task for want of memory: its limit is "+memoryLimit(h.config), nil)
		}
		if e.ForkRefused {
			d.event(h.config, "The kernel refused the task another process or thread for their number: raise pids_limit in the task's config", nil)
		}
		if e.Error != "" {
			d.event(h.config, "The task's program never ran: "+e.Error, nil)
		}
		if e.Unknown {
			d.event(h.config, "The task has ended and its exit code is unknown: what supervised it was killed, and the kernel no longer tells", nil)
		}
		if e.DroppedLogBytes > 0 {
			d.event(h.config, fmt.Sprintf("%s of the task's output were dropped: Nomad's log collector did not keep up", humanize.IBytes(uint64(e.DroppedLogBytes))), nil)
		}
	})
}

func memoryLimit(cfg *drivers.TaskConfig) string {
	if cfg.Resources == nil || cfg.Resources.LinuxResources == nil {
		return "unknown"
	}
	return humanize.IBytes(uint64(cfg.Resources.LinuxResources.MemoryLimitBytes)) + "; raise memory or memory_max in the task's resources"
}
