package main

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// becomeInit is this program's other life: the first process of a sandbox whose job wants one (init = true), mounted
// there read-only. It starts the task's program, passes signals on to it, reaps what that leaves behind, and ends with
// its exit code. It runs as the tenant and has no more rights than the task's own program.
func becomeInit(args []string) int {
	signals := make(chan os.Signal, 64)
	// All of them, and before the child exists, so that none is lost.
	signal.Notify(signals)
	child, err := startChild(args)
	if err != nil {
		_, _ = os.Stderr.WriteString("pangaea-init: " + err.Error() + "\n")
		if errors.Is(err, unix.ENOENT) {
			return codeNotFound
		}
		return codeNotExecuted
	}
	go passOn(signals, child)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == nil && pid == child && status.Signaled():
			return 128 + int(status.Signal())
		case err == nil && pid == child:
			return status.ExitStatus()
		case err != nil && err != unix.EINTR:
			return codeNotExecuted // There is no child, which can't be.
		}
	}
}

// passOn sends the child what is meant for it: neither news of children nor what Go's scheduler and a closed pipe send
// to this process itself.
func passOn(signals <-chan os.Signal, child int) {
	for s := range signals {
		number, ok := s.(syscall.Signal)
		if ok && number != syscall.SIGCHLD && number != syscall.SIGURG && number != syscall.SIGPIPE {
			_ = unix.Kill(child, number)
		}
	}
}

// startChild starts the program in a process group of its own, which has the terminal if there is one.
func startChild(args []string) (int, error) {
	if len(args) == 0 {
		return 0, errors.New("no program to run")
	}
	path, err := lookUp(args[0])
	if err != nil {
		return 0, wrap("run "+args[0], err)
	}
	_, err = unix.IoctlGetTermios(0, unix.TCGETS)
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{ //nolint:gosec // a task's own program, in its own sandbox
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: err == nil},
	})
	if err != nil {
		return 0, wrap("run "+args[0], err)
	}
	return pid, nil
}

// lookUp finds a program as execvp(3) does.
func lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		path := dir + "/" + name
		info, err := os.Stat(path) //nolint:gosec // the sandbox's own PATH, in the sandbox
		if err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", unix.ENOENT
}
