package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"pangaea/driver/supervisor"
)

// destroyTimeout bounds the removal of a task: what takes longer is stuck in the kernel, and the sweep tries again.
const destroyTimeout = 30 * time.Second

// WaitTask sends the task's end once it is known. It may be called any number of times.
func (d *Driver) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	h, ok := d.task(id)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	ch := make(chan *drivers.ExitResult, 1)
	err := d.spawn(func() {
		defer close(ch)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(d.ctx, cancel)()
		exit, err := h.task.Wait(ctx)
		switch {
		case err == nil:
			d.tellEnd(h, exit)
			ch <- result(exit)
		case ctx.Err() == nil:
			// A nil result would make Nomad's client panic, so whatever went wrong is one.
			ch <- &drivers.ExitResult{ExitCode: 1, Err: err}
		}
	})
	return ch, err
}

// StopTask stops a task, or its start. A task that is not known is stopped: an error would make Nomad try for minutes.
func (d *Driver) StopTask(id string, timeout time.Duration, signal string) error {
	if d.abort(id) {
		return nil
	}
	h, ok := d.task(id)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, timeout+destroyTimeout)
	defer cancel()
	err := h.task.Stop(ctx, d.stopSignal(h, signal), timeout)
	if err != nil && !errors.Is(err, supervisor.ErrNotRunning) {
		return fmt.Errorf("cannot stop the task: %w", err)
	}
	return nil
}

// stopSignal is what asks a task to end: what its job says, else its image. There may be no such signal, or no way to
// send it, and the task still has to stop: its user is told that SIGTERM takes its place.
func (d *Driver) stopSignal(h *handle, asked string) unix.Signal {
	sig, err := parseSignal(cmp.Or(asked, h.file.Stop), unix.SIGTERM)
	if err == nil {
		err = h.task.Takes(sig)
	}
	if err != nil {
		d.event(h.config, fmt.Sprintf("Stopping the task by SIGTERM: %v; name another as kill_signal in the job", err), nil)
		return unix.SIGTERM
	}
	return sig
}

// abort cancels a start that is still under way.
func (d *Driver) abort(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	start, ok := d.starting[id]
	if ok {
		start.cancel()
	}
	return ok
}

// DestroyTask removes all that is left of a task, also of one that this process does not know: Nomad destroys what it
// could not recover. It may be repeated.
func (d *Driver) DestroyTask(id string, force bool) error {
	if d.abort(id) {
		return nil
	}
	h, ok := d.task(id)
	if ok && h.running() && !force {
		return errors.New("cannot remove the task: it is still running; stop it first")
	}
	err := d.destroy(id, h)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		if ok {
			h.condemned = true
		}
		return err
	}
	delete(d.tasks, id)
	delete(d.networks, id)
	return nil
}

// destroy removes all that is left of a task, of which h is nil if it is not known.
func (d *Driver) destroy(id string, h *handle) error {
	t, err := d.open()
	if err != nil {
		return err
	}
	dir := d.settings().taskDir(sandboxID(id))
	ctx, cancel := context.WithTimeout(d.ctx, destroyTimeout)
	defer cancel()
	if h != nil {
		err = h.task.Destroy(ctx)
	} else {
		err = destroyUnknown(ctx, t, dir)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the task: %w", err)
	}
	return cleanUp(t, dir, sandboxID(id))
}

// destroyUnknown ends whatever the records in dir tell of.
func destroyUnknown(ctx context.Context, t *tools, dir string) error {
	_, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	task, err := t.supervisor.Recover(dir)
	if errors.Is(err, supervisor.ErrGone) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return task.Destroy(ctx)
}

// cleanUp removes what a dead task left: the mount of its root, its range of identifiers, its directory.
func cleanUp(t *tools, dir, id string) error {
	err := t.images.Unmount(id)
	if err != nil {
		return fmt.Errorf("cannot unmount the task's root file system: %w", err)
	}
	file, err := readTaskFile(dir)
	if err == nil && file.IDStart > 0 {
		t.ids.release(file.IDStart, dir)
	}
	err = removeTaskDir(dir)
	if err == nil {
		t.holds.Release(dir)
	}
	return err
}

// InspectTask tells a task's state.
func (d *Driver) InspectTask(id string) (*drivers.TaskStatus, error) {
	h, ok := d.task(id)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	return h.status(d.ctx), nil
}

// SignalTask sends a signal to the task's first process.
func (d *Driver) SignalTask(id, signal string) error {
	h, ok := d.task(id)
	if !ok {
		return drivers.ErrTaskNotFound
	}
	sig, err := parseSignal(signal, unix.SIGHUP)
	if err != nil {
		return err
	}
	err = h.task.Signal(sig)
	if err != nil {
		return fmt.Errorf("cannot signal the task: %w", err)
	}
	return nil
}

// The real-time signals that programs use, by C's count: the two below are the C library's own.
const (
	firstRealTime = 34 // SIGRTMIN
	lastRealTime  = 64 // SIGRTMAX
)

// parseSignal reads a name, with or without SIG, or a number. Without either it is the default.
func parseSignal(text string, otherwise unix.Signal) (unix.Signal, error) {
	if text == "" {
		return otherwise, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	sig := unix.SignalNum("SIG" + name)
	if sig != 0 {
		return sig, nil
	}
	sig, ok := realTime(name)
	if ok {
		return sig, nil
	}
	var n int
	_, err := fmt.Sscanf(text+"\n", "%d\n", &n)
	if err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	return 0, fmt.Errorf("cannot send signal %q: there is none of that name", text)
}

// realTime reads RTMIN, RTMIN+3 or RTMAX-2.
func realTime(name string) (unix.Signal, bool) {
	base, offset := firstRealTime, strings.TrimPrefix(name, "RTMIN")
	if offset == name {
		base, offset = lastRealTime, strings.TrimPrefix(name, "RTMAX")
	}
	if offset == "" {
		return unix.Signal(base), true
	}
	n, err := strconv.Atoi(offset)
	signed := offset[0] == '+' || offset[0] == '-'
	return unix.Signal(base + n), err == nil && signed && offset != name && base+n >= firstRealTime && base+n <= lastRealTime
}
