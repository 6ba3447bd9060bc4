package driver

import (
	"context"
	"slices"

	"pangaea/driver/cgroup"
)

// undo takes back one thing that a step of a start has made.
type undo struct {
	failed string // what to log if it can't
	run    func() error
}

func (s *startup) undone(failed string, run func() error) {
	s.undoMu.Lock()
	defer s.undoMu.Unlock()
	s.undo = append(s.undo, undo{failed, run})
}

// rollBack takes back what the steps have made, the latest first. It stops at what can't be: that still uses what was
// made before it, as a stuck process does its range of identifiers. The sweep, or the task's next start, ends the rest.
func (s *startup) rollBack() {
	for _, u := range slices.Backward(s.undo) {
		err := u.run()
		if err != nil {
			s.d.log.Warn("cannot take back a start", "task_id", s.cfg.ID, "problem", u.failed, "error", err)
			return
		}
	}
}

// endTask ends a task that was started, or sees to it that a start that failed has left no process.
func (s *startup) endTask() error {
	if s.task != nil {
		return s.task.Destroy(context.WithoutCancel(s.ctx))
	}
	group, err := cgroup.New(s.plan.CgroupsPath)
	if err != nil {
		return nil // a path that is refused was never used
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), destroyTimeout)
	defer cancel()
	return group.KillAll(ctx)
}

// settle makes a task known in the same step that ends its start. A stop in between would find a start to cut short,
// and the task would run on.
func (s *startup) settle(h *handle) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	err := s.ctx.Err()
	if err != nil {
		return err
	}
	delete(s.d.starting, s.cfg.ID)
	s.d.tasks[s.cfg.ID] = h
	return nil
}
