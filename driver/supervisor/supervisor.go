package supervisor

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor starts and finds tasks.
type Supervisor struct{ conf Config }

// New returns a supervisor; it does no I/O.
func New(conf Config) *Supervisor { return &Supervisor{conf: conf} }

// Start runs a task and returns when the user's program runs, or why it can't. A task with a lease is
// returned while it is still held.
func (s *Supervisor) Start(ctx context.Context, l Launch) (*Task, error) {
	return nil, errors.ErrUnsupported
}

// Recover finds the task whose records lie in dir: running, or ended with a known exit. It fails with
// ErrGone when nothing is left and no exit code can be told.
func (s *Supervisor) Recover(dir string) (*Task, error) { return nil, errors.ErrUnsupported }

// Task is a sandbox that was started.
type Task struct{ done chan struct{} }

// Pid is the init's process id on the host.
func (t *Task) Pid() int { return 0 }

// StartedAt is when the task started.
func (t *Task) StartedAt() time.Time { return time.Time{} }

// Done is closed when the task has ended.
func (t *Task) Done() <-chan struct{} { return t.done }

// Wait waits until the task has ended and says how.
func (t *Task) Wait(ctx context.Context) (Exit, error) { return Exit{}, errors.ErrUnsupported }

// Signal sends a signal to the task's init.
func (t *Task) Signal(sig unix.Signal) error { return errors.ErrUnsupported }

// Stop sends sig, waits for at most timeout, then kills all that is left.
func (t *Task) Stop(ctx context.Context, sig unix.Signal, timeout time.Duration) error {
	return errors.ErrUnsupported
}

// Exec runs a program in the sandbox and returns its exit code.
func (t *Task) Exec(ctx context.Context, r ExecRequest) (int, error) {
	return 0, errors.ErrUnsupported
}

// Stats measures the sandbox.
func (t *Task) Stats() (Stats, error) { return Stats{}, errors.ErrUnsupported }

// Destroy kills all that is left of the task and removes its container and cgroups. It may be repeated.
func (t *Task) Destroy(ctx context.Context) error { return errors.ErrUnsupported }
