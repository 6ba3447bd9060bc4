package driver

import (
	"context"
	"time"
)

// foresightTime is how long a task is looked out for that Nomad has asked about. Its hooks take 30 to 60 ms before
// they come to StartTask, more where they fetch or render something; to be ready for longer would cost more than it gives.
// Tests change it.
var foresightTime = time.Second

// foresee prepares for a task that comes soon. Nomad has no word for that; but it asks for the schema and the
// capabilities when it has been given a task, before the hooks of that task, and hardly ever else.
func (d *Driver) foresee() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tools == nil {
		return // No task was here yet, or Nomad only validates its configuration with this process.
	}
	if d.foreseen != nil && d.foreseen.Reset(foresightTime) {
		return // Another task is looked out for; this one prolongs that.
	}
	ctx, cancel := context.WithCancel(d.ctx)
	d.foreseen = time.AfterFunc(foresightTime, cancel)
	supervisor := d.tools.supervisor
	err := d.spawnLocked(func() { supervisor.Ready(ctx) })
	if err != nil {
		cancel()
	}
}
