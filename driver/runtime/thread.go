package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// errCpuset says that a process was not started because it would not be in its cpuset.
var errCpuset = errors.New("cannot join the task's cpuset")

// inCpuset runs f, which starts a process, on a thread in a cgroup v1 cpuset: a process starts where the thread is that
// starts it. A thread moves itself at once. To move a whole process waits for an RCU grace period, 6 to 20 ms, unless
// another was moved just before.
func inCpuset(dir string, f func() error) error {
	return onOwnThread(func() error {
		err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0)
		if err != nil {
			return fmt.Errorf("%w: %w", errCpuset, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that ends with it, and with that has left the cgroups that it has joined.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// This one can't end.
			done <- onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
