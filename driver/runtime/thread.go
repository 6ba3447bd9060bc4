package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pangaea/driver/thread"
)

// errCpuset says that a process was not started because it would not be in its cpuset.
var errCpuset = errors.New("cannot join the task's cpuset")

// inCpuset runs f, which starts a process, on a thread in a cgroup v1 cpuset: a process starts where the thread is that
// starts it. A thread moves itself at once. To move a whole process waits for an RCU grace period, 6 to 20 ms, unless
// another was moved just before.
func inCpuset(dir string, f func() error) (err error) {
	thread.Throwaway(func() {
		err = os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0)
		if err != nil {
			err = fmt.Errorf("%w: %w", errCpuset, err)
			return
		}
		err = f()
	})
	return err
}
