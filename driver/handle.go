package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/supervisor"
)

// handle is a task that the driver knows: started or recovered, running or ended.
type handle struct {
	config *drivers.TaskConfig
	file   taskFile
	dir    string
	task   *supervisor.Task
	// health is nil without a check; ended is done when what the exit code does not say has been told.
	health *watcher
	ended  sync.Once
	// condemned is set when its removal has failed; guarded by the driver's mu.
	condemned bool
}

// driverState is what Nomad keeps for the driver across a restart of its client. The rest is in the task's directory.
type driverState struct {
	SandboxID string
}

func (d *Driver) newHandle(cfg *drivers.TaskConfig, file taskFile, dir string, task *supervisor.Task) *handle {
	h := &handle{config: cfg, file: file, dir: dir, task: task}
	h.health = d.newWatcher(h)
	return h
}

// export makes what Nomad keeps.
func (h *handle) export() (*drivers.TaskHandle, error) {
	out := drivers.NewTaskHandle(handleVersion)
	out.Config = h.config
	out.State = drivers.TaskStateRunning
	err := out.SetDriverState(driverState{SandboxID: h.file.ID})
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode the task's handle: %w", err)
	}
	return out, nil
}

func (h *handle) running() bool {
	select {
	case <-h.task.Done():
		return false
	default:
		return true
	}
}

// result turns a task's end into Nomad's terms.
func result(e supervisor.Exit) *drivers.ExitResult {
	r := &drivers.ExitResult{ExitCode: e.Code, Signal: e.Signal, OOMKilled: e.OOMKilled}
	switch {
	case e.LeaseExpired:
		r.Err = errors.New("the task was killed because its lease was not renewed: this host has lost the pool")
	case e.Unknown:
		r.ExitCode = 1
		r.Err = errors.New("the task has ended, and its exit code could not be learned: its supervisor was killed with it")
	}
	return r
}

func (h *handle) status(ctx context.Context) *drivers.TaskStatus {
	s := &drivers.TaskStatus{
		ID: h.config.ID, Name: h.config.Name, State: drivers.TaskStateRunning, StartedAt: h.task.StartedAt(),
		DriverAttributes: map[string]string{
			"pid": fmt.Sprint(h.task.Pid()), "image": h.file.Image, "digest": h.file.Digest, "gpus": strings.Join(h.file.UUIDs, ","), "runtime": h.file.Runtime,
		},
	}
	if h.health != nil {
		s.DriverAttributes["health"] = fmt.Sprint(h.health.status.Load())
	}
	if h.running() {
		return s
	}
	exit, err := h.task.Wait(ctx)
	if err != nil {
		s.State = drivers.TaskStateUnknown
		return s
	}
	s.State, s.CompletedAt, s.ExitResult = drivers.TaskStateExited, exit.At, result(exit)
	if s.CompletedAt.IsZero() {
		s.CompletedAt = time.Now()
	}
	return s
}
