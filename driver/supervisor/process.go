package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

// process is a process held by a pidfd, which the Go runtime's poller waits for: no thread sleeps per task.
type process struct {
	file  *os.File
	close func()
}

// openProcess holds the process with that pid and start time.
func openProcess(pid int, startTime uint64) (*process, error) {
	fd, err := record.OpenPidfd(pid, startTime)
	if err != nil {
		return nil, err
	}
	return fromPidfd(fd)
}

func fromPidfd(fd int) (*process, error) {
	if fd < 0 {
		return nil, errors.New("cannot hold a process: the kernel gave no pidfd; it needs Linux 5.4 or later")
	}
	err := unix.SetNonblock(fd, true)
	if err != nil {
		return nil, fmt.Errorf("cannot hold a process: %w", err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	return &process{file: file, close: sync.OnceFunc(func() { _ = file.Close() })}, nil
}

// unblock is a deadline that has passed.
func unblock() time.Time { return time.Unix(1, 0) }

// wait waits until the process has ended.
func (p *process) wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for the process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(unblock()) })
	defer func() {
		if !stop() {
			_ = p.file.SetReadDeadline(time.Time{})
		}
	}()
	err = conn.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// ended says whether the process has ended, reaped or not.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// control runs f with the pidfd.
func (p *process) control(f func(fd int) error) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// alive says whether the process still runs.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	running := false
	_ = p.control(func(fd int) error { running = !ended(fd); return nil })
	return running
}

func (p *process) signal(sig unix.Signal) error {
	if p == nil {
		return ErrNotRunning
	}
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return ErrNotRunning
	}
	return err
}

// exitStatus asks the kernel how the process ended.
func (p *process) exitStatus(pid int, startTime uint64) (unix.WaitStatus, bool) {
	var status unix.WaitStatus
	known := false
	if p == nil {
		return status, known
	}
	_ = p.control(func(fd int) error { status, known = record.ExitStatus(fd, pid, startTime); return nil })
	return status, known
}
