package driver

import (
	"context"
	"fmt"
	"path/filepath"

	"pangaea/driver/supervisor"
)

// underway is a start that is going on.
type underway struct {
	alloc, task string
	cancel      context.CancelFunc
	ended       chan struct{} // closed once it has succeeded, or has taken back all that it made
}

// siblings are the starts under way of the same task. The caller holds mu.
func (d *Driver) siblings(of *underway) []*underway {
	var found []*underway
	for _, u := range d.starting {
		if u.alloc == of.alloc && u.task == of.task {
			found = append(found, u)
		}
	}
	return found
}

// endEarlier ends what is left of earlier starts of the same task. Nomad starts a task anew, under a new ID, only when
// it has given the old one up, and knows of no other: so does a client that was killed before it had noted that a start
// succeeded. A copy that ran on would be a second one.
func (s *startup) endEarlier() error {
	for _, u := range s.earlier {
		s.holdLogs()
		u.cancel()
		select {
		case <-u.ended:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	for _, id := range s.d.copies(s.cfg.AllocID, s.cfg.Name) {
		s.holdLogs()
		err := s.d.DestroyTask(id, true)
		if err != nil {
			return fmt.Errorf("cannot end an earlier copy of the task: %w", err)
		}
		s.d.log.Warn("ended an earlier copy of a task that Nomad does not know of", "task_id", s.cfg.ID, "earlier", id)
	}
	return s.endUnknown()
}

// holdLogs keeps Nomad's log collector reading until this start is over.
func (s *startup) holdLogs() {
	if s.releaseLogs == nil {
		s.releaseLogs = supervisor.HoldLogs(logFIFO(s.cfg.StdoutPath), logFIFO(s.cfg.StderrPath))
	}
}

// copies lists the tasks of an allocation that this process knows under a name.
func (d *Driver) copies(alloc, name string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for id, h := range d.tasks {
		if h.config.AllocID == alloc && h.config.Name == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// endUnknown ends earlier starts of the same task that this process does not know, because an earlier one made them.
func (s *startup) endUnknown() error {
	dirs, err := filepath.Glob(s.conf.taskDir(sandboxPrefix(s.cfg.ID) + "*"))
	if err != nil {
		return fmt.Errorf("internal error: cannot look for earlier starts: %w", err)
	}
	for _, dir := range dirs {
		err := s.awaitSwept(filepath.Base(dir))
		if err != nil {
			return err
		}
		// Nomad repeats a start under the same ID when the plugin was killed in it.
		if dir != s.conf.taskDir(sandboxID(s.cfg.ID)) {
			file, err := readTaskFile(dir)
			if err != nil || file.AllocID != s.cfg.AllocID || file.Task != s.cfg.Name || s.d.inUse(filepath.Base(dir)) {
				continue
			}
		}
		s.holdLogs()
		err = destroyLeft(s.ctx, s.tools, dir)
		if err != nil {
			return fmt.Errorf("cannot end an earlier copy of the task: %w", err)
		}
		s.d.log.Warn("ended an earlier copy of a task that nobody had recovered", "task_id", s.cfg.ID, "sandbox", filepath.Base(dir))
	}
	return nil
}
