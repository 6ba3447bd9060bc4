package main

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openStdin opens what the task gets as its standard input. A task that is to have a terminal gets a socket, over which
// its runtime sends us the terminal's other side. One that is interactive gets a FIFO that it holds open itself, so that
// it waits for whoever writes stdin.fifo in the task's directory.
func (s *shim) openStdin() error {
	s.stdin, s.console = s.null, -1
	switch {
	case s.conf.TTY:
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return wrap("make a socket for the terminal", err)
		}
		s.console, s.stdin = pair[0], pair[1]
	case s.conf.Stdin:
		path := filepath.Join(s.dir, "stdin.fifo")
		err := mkfifo(path, s.conf.StdioUID, s.conf.StdioGID)
		if err != nil {
			return err
		}
		s.stdin, err = unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return wrap("open "+path, err)
		}
	}
	return nil
}

// takeTerminal takes the terminal's other side for the source of the task's output. The sandbox's init has sent it
// before it said that it is ready. Should this shim be killed the terminal hangs up: there is no other way to it.
func (s *shim) takeTerminal() error {
	if s.console < 0 {
		return nil
	}
	defer func() { _ = unix.Close(s.console) }()
	text, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	_, size, _, _, err := unix.Recvmsg(s.console, text, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return wrap("receive the terminal", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:size])
	if err != nil || len(messages) != 1 {
		return errors.New("cannot receive the terminal: the runtime sent none")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return errors.New("cannot receive the terminal: the runtime sent none")
	}
	out := &s.out[0]
	out.source = fds[0]
	err = unix.SetNonblock(out.source, true)
	if err == nil && (out.path == "" || s.conf.Discard) {
		// Nobody wants the output, but somebody must read it or the task would stop at a full terminal.
		out.closeSink()
		out.path = ""
		out.sink, err = unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	return err
}
