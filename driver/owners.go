package driver

import (
	"context"
	"fmt"

	"pangaea/driver/ownership"
	"pangaea/driver/sandbox"
)

// mapOwners does for /secrets, which Nomad keeps in memory, what the sandbox's mounts do for all else, if this kernel
// maps no owners there. What a job mounts from such a place it can't have here.
func (s *startup) mapOwners() error {
	if s.plan.HostUsers || s.host.MapsMemory {
		return nil
	}
	for i := range s.plan.Binds {
		b := &s.plan.Binds[i]
		if !b.Mapped {
			continue
		}
		inMemory, err := ownership.InMemory(b.Source)
		if err != nil {
			return err
		}
		if !inMemory {
			continue
		}
		if b.Source != s.cfg.TaskDir().SecretsDir {
			return fmt.Errorf("cannot mount at %q: %s is in memory, where this kernel maps no owners; move it to a disk or use Linux 6.3", b.Target, b.Source)
		}
		b.Mapped = false
		err = ownerRange(s.file).Give(b.Source)
		if err != nil {
			return err
		}
	}
	return nil
}

func ownerRange(f taskFile) ownership.Range {
	return ownership.Range{Start: f.IDStart, Count: sandbox.IDRangeSize}
}

// keepOwners goes on with it while the task runs, for what Nomad writes anew: templates, tokens.
func (d *Driver) keepOwners(t *tools, h *handle) {
	dir := h.config.TaskDir().SecretsDir
	inMemory, err := ownership.InMemory(dir)
	if t.host.MapsMemory || h.file.IDStart == 0 || err != nil || !inMemory || !h.running() {
		return
	}
	_ = d.spawn(func() {
		ctx, cancel := context.WithCancel(d.ctx)
		defer cancel()
		go func() {
			select {
			case <-h.task.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		report := func(err error) { d.log.Warn("cannot give a secret to its task", "task_id", h.config.ID, "error", err) }
		err := ownerRange(h.file).Keep(ctx, dir, report)
		if err != nil {
			report(err)
		}
	})
}
