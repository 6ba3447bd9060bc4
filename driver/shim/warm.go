package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxOrder bounds what is sent to a waiting runtime, so that it arrives in one piece.
const maxOrder = 16 << 10

// awaitTask waits, with a runtime that waits as well, for the directory of a task to come in on standard input.
// To start two programs takes longer than much of what they then do, so the supervisor has one pair ready. It is
// told nothing and holds nothing before its one task comes, and it ends when the supervisor does.
func (s *shim) awaitTask(runtime []string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wrap("make a socket", err)
	}
	pid, err := syscall.ForkExec(runtime[0], append(runtime, "wait"), &syscall.ProcAttr{ //nolint:gosec // the supervisor names the runtime
		Dir: "/", Env: runtimeEnv(), Files: []uintptr{1, 1, 2, uintptr(pair[1])}, Sys: withUs(),
	})
	_ = unix.Close(pair[1])
	if err != nil {
		return wrap("run "+runtime[0], err)
	}
	s.warm, s.warmPid = pair[0], pid
	s.dir = readLine(0)
	if s.dir == "" {
		os.Exit(0)
	}
	return s.takeStdio()
}

// readLine reads a line from a pipe; an incomplete one is none.
func readLine(fd int) string {
	var line []byte
	var buffer [4096]byte
	for {
		n, err := unix.Read(fd, buffer[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return ""
		}
		line = append(line, buffer[:n]...)
		if line[len(line)-1] == '\n' {
			return string(line[:len(line)-1])
		}
	}
}

// takeStdio gives this process what a shim that is started for its task has from the start: nothing to read, and
// the task's own log.
func (s *shim) takeStdio() error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open /dev/null", err)
	}
	log, err := unix.Open(filepath.Join(s.dir, "shim.log"), unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap("open the shim's log", err)
	}
	for to, from := range []int{null, log, log} {
		err = unix.Dup3(from, to, 0)
		if err != nil {
			return wrap("open the shim's log", err)
		}
	}
	_ = unix.Close(null)
	_ = unix.Close(log)
	return nil
}

// order has the waiting runtime do what a new one would be started for: its arguments and standard files. It returns
// false if there is none, or no longer.
func (s *shim) order(args []string) (pid, control int, ok bool) {
	if s.warm < 0 {
		return 0, 0, false
	}
	text := strings.Join(args[1:], "\x00")
	files := unix.UnixRights(s.stdin, s.out[0].taskEnd, s.out[1].taskEnd)
	if len(text) <= maxOrder {
		sent, err := unix.SendmsgN(s.warm, []byte(text), files, nil, unix.MSG_NOSIGNAL)
		if err == nil && sent == len(text) {
			return s.warmPid, s.warm, true
		}
	}
	_ = unix.Close(s.warm)
	s.waitChild(s.warmPid)
	return 0, 0, false
}
