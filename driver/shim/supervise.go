package main

import (
	"context"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/failpoint"
	"pangaea/driver/record"
)

const (
	// drainTime bounds how long what the task has written last may take to be passed on.
	drainTime = 2 * time.Second
	// emptyTime bounds how long the task's last processes may take to die.
	emptyTime = 10 * time.Second
	// codeNotExecuted is what a shell says of a program that it can't execute, and codeNotFound if there is none.
	codeNotExecuted = 126
	codeNotFound    = 127
)

func itoa(n int) string { return strconv.Itoa(n) }

// supervise carries the task's output until its init has ended, then tidies up and records how it ended.
func (s *shim) supervise() error {
	_ = unix.Close(s.null)
	for !s.ended() {
		s.step(s.pidfd, s.wait())
		if s.lease.check(now()) {
			s.kill()
		}
	}
	at := time.Now()
	if s.refused() {
		s.error = refusal
	}
	failpoint.Here(s.dir, "shim-ended")
	s.collect()
	ctx, cancel := context.WithTimeout(context.Background(), emptyTime)
	defer cancel()
	// In a pid namespace of its own the task has died with its init; elsewhere it may have left children.
	stuck := s.group.KillAll(ctx)
	s.drain()
	err := record.WriteExit(s.dir, s.exit(at))
	s.reap()
	if err != nil {
		return err
	}
	return stuck
}

// wait is how long a step may sleep.
func (s *shim) wait() time.Duration {
	wait := time.Duration(-1)
	if s.lease.exists() {
		wait = s.lease.interval()
	}
	for i := range s.out {
		if len(s.out[i].pending) > 0 && (wait < 0 || wait > patience) {
			wait = patience
		}
	}
	return wait
}

// step waits until something can be done, and does it. pidfd is -1 once the init has ended.
func (s *shim) step(pidfd int, wait time.Duration) {
	fds := [3]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, s.out[0].pollFd(), s.out[1].pollFd()}
	timeout := -1
	if wait >= 0 {
		timeout = int((wait + time.Millisecond - 1) / time.Millisecond)
	}
	_, err := unix.Poll(fds[:], timeout)
	if err != nil {
		return
	}
	for i := range s.out {
		// After the task's end nothing new comes, and a FIFO that never had a writer signals no end of its own.
		s.out[i].move(fds[i+1].Revents != 0 || pidfd < 0)
	}
}

// collect learns how the init ended and leaves it a zombie until that is recorded: should the shim be killed before,
// whoever looks next can still read the status.
func (s *shim) collect() {
	if s.known {
		return
	}
	s.status, s.known = record.ExitStatus(s.pidfd, s.state.Pid, s.state.StartTime)
	if !s.known {
		s.reap()
	}
}

// reap takes the init's status off the kernel, if the shim is its parent.
func (s *shim) reap() {
	if !s.child {
		return
	}
	var status unix.WaitStatus
	pid, err := unix.Wait4(s.state.Pid, &status, 0, nil)
	if err == nil && pid == s.state.Pid && !s.known {
		s.status, s.known = status, true
	}
}

// drain passes on the task's last output. All its writers are dead, so the streams end.
func (s *shim) drain() {
	deadline := now() + drainTime
	for late := false; !late; {
		// Looked at before the last step: where this process stood still, that one passes on what is there.
		late = now() >= deadline
		open := false
		for i := range s.out {
			open = open || s.out[i].source >= 0 || len(s.out[i].pending) > 0
		}
		if !open {
			return
		}
		s.step(-1, 100*time.Millisecond)
	}
}

// exit is the record of the task's end.
func (s *shim) exit(at time.Time) *record.Exit {
	exit := &record.Exit{
		Version: record.Version, AtUnixNs: at.UnixNano(), Error: s.error,
		LeaseExpired: s.lease.expired, Unknown: !s.known,
	}
	for i := range s.out {
		exit.DroppedLogBytes += s.out[i].dropped + int64(len(s.out[i].pending)) + s.out[i].left()
	}
	if s.known {
		exit.FromStatus(s.status)
	}
	switch {
	case s.error == "":
	case s.unstarted:
		// By whom it was killed, its parent may have reaped it. An init that waits to start dies of nothing else.
		exit.FromStatus(unix.WaitStatus(unix.SIGKILL))
		exit.Unknown = false
	default:
		exit.Code, exit.Signal, exit.Unknown = codeNotExecuted, 0, false
	}
	exit.FromCounters(s.group, &s.state)
	return exit
}
