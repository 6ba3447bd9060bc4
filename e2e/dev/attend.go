package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// workVerb is what the program calls itself with to do the work itself.
const workVerb = "work"

// attend has the work done by a process of its own, in a process group of its own, and returns its exit status. Whoever
// ends this program, and be it with SIGKILL, which leaves no time to clean up, makes the kernel tell that process to
// stop: it takes down what it has started.
func attend(args []string) (int, error) {
	// The kernel tells when the thread ends that has started the process, not the program.
	runtime.LockOSThread()
	if os.Getenv("MAKELEVEL") != "" {
		// Nobody would read on if make were killed. A shell may go: it was told to leave this running.
		err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
		if err != nil {
			return 1, fmt.Errorf("cannot ask for a signal when make ends: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("cannot find this program: %w", err)
	}
	told := make(chan os.Signal, 8)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signal.Notify(told, syscall.SIGHUP)
	}
	cmd := exec.Command(self, append([]string{workVerb}, args...)...) //nolint:gosec // this program again
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	err = cmd.Start()
	if err != nil {
		return 1, fmt.Errorf("cannot start the work: %w", err)
	}
	go func() {
		for range told {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		}
	}()
	err = cmd.Wait()
	exit := new(exec.ExitError)
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("the work did not end in order and may have left processes, mounts and directories in /var/tmp: %w", err)
	}
	return 0, nil
}

// surviveReader lets the work go on when nobody reads its output any more: it has to clean up.
func surviveReader() {
	// Not signal.Ignore: what we start would ignore it too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
