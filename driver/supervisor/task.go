package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// maxAdoptions bounds how often a task gets a new shim.
const maxAdoptions = 5

// shimTime is what a shim gets to record the end of a task that was killed, longer than it may take for that. One that
// does not, because it is stopped, is killed: what it had yet to do can be done without it.
const shimTime = 8 * time.Second

// Task is a sandbox that was started.
type Task struct {
	sup    *Supervisor
	dir    string
	launch *record.Launch
	state  *record.State
	group  cgroup.Task
	// init is nil if it was gone when the task was found.
	init *process

	once    sync.Once
	exit    Exit
	done    chan struct{}
	tell    sync.Once
	told    chan struct{} // Closed when somebody has learned of the end by Wait.
	leave   sync.Once
	quit    chan struct{} // Closed by Destroy: no new shim, please.
	watched chan struct{} // Closed when the watching goroutine has ended.
}

// Pid is the init's process id on the host.
func (t *Task) Pid() int { return t.state.Pid }

// StartedAt is when the task started.
func (t *Task) StartedAt() time.Time { return time.Unix(0, t.state.CreatedUnixNs) }

// Done is closed when the task has ended.
func (t *Task) Done() <-chan struct{} { return t.done }

// Wait waits until the task has ended and says how. Only then is the end of its logs told.
func (t *Task) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-t.done:
		t.tell.Do(func() { close(t.told) })
		return t.exit, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// watch starts the goroutine that ends when the task's end is known. A shim of nil has already gone.
func (t *Task) watch(shim *shimProcess) {
	held := holdPipes(t.dir, t.launch)
	go func() {
		defer close(t.watched)
		defer t.keepLogs(held)
		for range maxAdoptions {
			if shim != nil {
				shim.reap()
			}
			exit, err := record.ReadExit(t.dir)
			if err == nil {
				t.finish(exit)
				return
			}
			shim = t.adopt()
			if shim == nil {
				break
			}
		}
		t.finish(t.witness(held))
	}()
}

// keepLogs holds Nomad's log FIFOs until the end of the task is known to somebody. While Nomad's client is dead its log
// collector writes what it has to say into a broken pipe, and dies of the first word. It has one to say when a new client
// comes and it finds the FIFOs at their end; the client would spend seconds on its death before it asked for the exit code.
func (t *Task) keepLogs(held pipes) {
	select {
	case <-t.told:
	case <-t.quit:
	case <-t.sup.closed:
	}
	held.close()
}

// adopt gives a task whose shim was killed a new one, or returns nil if there is no need or no way.
func (t *Task) adopt() *shimProcess {
	select {
	case <-t.quit:
		return nil
	default:
	}
	// In this order, for the reason that facts gives.
	if !hasStarted(t.dir, t.launch) || !t.init.alive() {
		return nil
	}
	log := t.sup.conf.Logger.With("task_id", t.launch.ID)
	shim, err := t.sup.spawn(t.launch, t.dir, "--adopt")
	if err == nil {
		log.Warn("the task's shim was killed; a new one takes over")
		err = shim.started(context.Background())
	}
	if err == nil {
		return shim
	}
	shim.end()
	_, readErr := record.ReadExit(t.dir)
	if readErr == nil {
		return nil
	}
	// Another Task of the same directory may have been quicker; then its shim is ours too.
	state, readErr := record.ReadState(t.dir)
	if readErr == nil {
		shim = findShim(state)
	}
	if readErr != nil || shim == nil {
		log.Error("cannot give the task a new shim; its output is lost", "error", err)
		return nil
	}
	return shim
}

// witness tells how a task ended that has no shim: the pidfd knows, on Linux 6.15 and later.
func (t *Task) witness(held pipes) *record.Exit {
	if !hasStarted(t.dir, t.launch) {
		// Its program never ran, and nobody is left who could start it.
		_ = t.init.signal(unix.SIGKILL)
	}
	if t.init != nil {
		_ = t.init.wait(context.Background())
	}
	awaitUnlocked(t.dir)
	exit, err := record.ReadExit(t.dir)
	if err == nil {
		return exit
	}
	exit = &record.Exit{Version: record.Version, AtUnixNs: time.Now().UnixNano()}
	status, known := t.init.exitStatus(t.state.Pid, t.state.StartTime)
	exit.Unknown = !known
	if known {
		exit.FromStatus(status)
		exit.FromCounters(t.group, t.state)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	err = t.group.KillAll(ctx)
	held.drain()
	if err == nil {
		err = record.WriteExit(t.dir, exit)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.sup.conf.Logger.Error("cannot record how a task ended", "task_id", t.launch.ID, "error", err)
	}
	return exit
}

// finish makes the task's end known.
func (t *Task) finish(e *record.Exit) {
	t.once.Do(func() {
		t.exit = Exit{
			Code: e.Code, Signal: e.Signal, OOMKilled: e.OOMKilled, ForkRefused: e.ForkRefused, LeaseExpired: e.LeaseExpired,
			At: time.Unix(0, e.AtUnixNs), Unknown: e.Unknown, Error: e.Error, DroppedLogBytes: e.DroppedLogBytes,
		}
		close(t.done)
	})
}

func (t *Task) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the task's init.
func (t *Task) Signal(sig unix.Signal) error {
	if t.ended() || !hasStarted(t.dir, t.launch) {
		return ErrNotRunning
	}
	err := t.Takes(sig)
	switch {
	case err != nil:
		return err
	case t.launch.RuntimeKind == KindRunsc:
		return t.signalRunsc(sig)
	}
	return t.init.signal(sig)
}

// Stop sends sig, waits for at most timeout, then kills all that is left. A task that is still held is killed.
func (t *Task) Stop(ctx context.Context, sig unix.Signal, timeout time.Duration) error {
	if t.ended() {
		return nil
	}
	err := t.Signal(sig)
	if err == nil && timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-t.done:
			return nil
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return t.kill(ctx)
}

// kill kills the task and waits until its end is recorded, by its shim or else without it.
func (t *Task) kill(ctx context.Context) error {
	_ = t.init.signal(unix.SIGKILL)
	t.group.Kill()
	select {
	case <-t.done:
		return nil
	case <-time.After(shimTime):
		evict(t.dir)
	case <-ctx.Done():
	}
	timer := time.NewTimer(cleanTimeout)
	defer timer.Stop()
	select {
	case <-t.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("cannot kill task %s: it has not ended %s after SIGKILL", t.launch.ID, cleanTimeout)
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for task %s to end: %w", t.launch.ID, ctx.Err())
	}
}

// Destroy kills all that is left of the task and removes its container and cgroups. It may be repeated.
func (t *Task) Destroy(ctx context.Context) error {
	t.leave.Do(func() { close(t.quit) })
	if !t.ended() {
		err := t.kill(ctx)
		if err != nil {
			return err
		}
	}
	<-t.watched
	if t.init != nil {
		t.init.close()
	}
	return t.sup.clean(t.dir, t.launch, t.group)
}
