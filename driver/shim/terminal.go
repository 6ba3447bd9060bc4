package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// consoleFile is the socket, in the task's directory, on which a runtime that is not ours sends the terminal.
const consoleFile = "console.sock"

// openStdin opens what the task gets as its standard input. For a task that is to have a terminal there is a socket, on
// which its runtime sends us the terminal's other side. One that is interactive gets a FIFO that it holds open itself, so that
// it waits for whoever writes stdin.fifo in the task's directory.
func (s *shim) openStdin() error {
	s.stdin, s.console = s.null, -1
	switch {
	case s.conf.TTY && s.conf.RuntimeKind != kindOwn:
		return s.listenConsole()
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

// listenConsole listens for the terminal in the task's directory, which only root can enter. A socket's path may have 108
// bytes at most, so both sides reach the directory through our descriptor of it.
func (s *shim) listenConsole() error {
	dir, err := unix.Open(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open "+s.dir, err)
	}
	s.consolePath = "/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(dir) + "/" + consoleFile
	s.console, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Unlinkat(dir, consoleFile, 0) // of an earlier start
	}
	if err == nil || err == unix.ENOENT {
		err = unix.Bind(s.console, &unix.SockaddrUnix{Name: s.consolePath})
	}
	if err == nil {
		err = unix.Listen(s.console, 1)
	}
	if err != nil {
		return wrap("listen for the terminal", err)
	}
	return nil
}

// consoleFlags tell a runtime that is not ours where to send the terminal, if there is to be one.
func (s *shim) consoleFlags() []string {
	if s.consolePath == "" {
		return nil
	}
	return []string{"--console-socket", s.consolePath}
}

// acceptConsole makes the connection over which a runtime that is not ours has sent the terminal our end of the socket.
func (s *shim) acceptConsole() error {
	conn, _, err := unix.Accept4(s.console, unix.SOCK_CLOEXEC)
	_ = unix.Close(s.console)
	s.console = conn
	_ = unix.Unlink(filepath.Join(s.dir, consoleFile))
	if err == unix.EAGAIN {
		return errors.New("cannot receive the terminal: the runtime sent none")
	}
	if err != nil {
		return wrap("receive the terminal", err)
	}
	return nil
}

// takeTerminal takes the terminal's other side for the source of the task's output. The runtime has sent it before it
// said that the sandbox is ready. Should this shim be killed the terminal hangs up: there is no other way to it.
func (s *shim) takeTerminal() error {
	if s.console < 0 {
		return nil
	}
	if s.consolePath != "" {
		err := s.acceptConsole()
		if err != nil {
			return err
		}
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
