package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execIn runs one more process in a sandbox, with this process's stdio or a terminal, and returns its exit code.
func execIn(id string, opts options) (int, error) {
	process, err := execProcess(opts)
	if err != nil {
		return exitFailed, err
	}
	run := func(start func() error) error { return start() }
	if opts.cpuset != "" {
		err = forgetCpuset(filepath.Join(opts.root, id, "state.json"))
		if err != nil {
			return exitFailed, err
		}
		run = func(start func() error) error { return inCpuset(opts.cpuset, start) }
	}
	container, err := libcontainer.Load(opts.root, id)
	if err != nil {
		return exitFailed, fmt.Errorf("cannot load sandbox %s: %w", id, err)
	}
	// Signals must be caught before the process exists, or one that comes at once would leave it behind.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	err = run(func() error { return container.Start(process) })
	if errors.Is(err, errCpuset) {
		return exitFailed, err
	}
	if err != nil {
		return execFailure(err)
	}
	go func() {
		<-stop
		_ = process.Signal(unix.SIGKILL)
	}()
	ended, err := process.Wait()
	if ended == nil {
		return exitFailed, fmt.Errorf("cannot wait for the process: %w", err)
	}
	status, ok := ended.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return ended.ExitCode(), nil
}

func execProcess(opts options) (*libcontainer.Process, error) {
	spec := new(specs.Process)
	err := readJSON(opts.process, spec)
	if err != nil {
		return nil, fmt.Errorf("cannot read the process to run: %w", err)
	}
	if len(spec.Args) == 0 {
		return nil, errors.New("the process to run names no program")
	}
	restrict(spec)
	process, err := newProcess(spec)
	if err != nil {
		return nil, err
	}
	if !opts.tty {
		process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
		return process, nil
	}
	process.ConsoleSocket, err = dial(opts.consoleSocket)
	return process, err
}

// dial connects to the socket on which the sandbox's side sends the terminal's master.
func dial(path string) (*os.File, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the console socket: %w", err)
	}
	defer conn.Close()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("internal error: the console socket is no unix socket")
	}
	return unixConn.File()
}

// execFailure gives a program that can't run the exit code a shell would give it.
func execFailure(err error) (int, error) {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return exitNotFound, fmt.Errorf("cannot run the program: %w", err)
	case strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"):
		return exitCannotExec, fmt.Errorf("cannot run the program: %w", err)
	}
	return exitFailed, fmt.Errorf("cannot run the program: %w", err)
}

// awaitStopped gives a killed sandbox a moment to end.
func awaitStopped(container *libcontainer.Container) {
	for range 200 {
		status, err := container.Status()
		if err != nil || status == libcontainer.Stopped {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
