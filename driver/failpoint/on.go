//go:build faults

package failpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names below an armed failpoint's directory.
const (
	pidFile = "pid"
	goFIFO  = "go"
)

// Here holds this goroutine if a test has armed the place for the task whose directory is taskDir, until it lets go.
func Here(taskDir, place string) {
	// A sandbox is named ALLOC-TASK-DIGEST, and a test knows the task's name before there is an allocation.
	parts := strings.Split(filepath.Base(taskDir), "-")
	armed := filepath.Join(filepath.Dir(filepath.Dir(taskDir)), "failpoints", parts[min(1, len(parts)-1)]+"."+place)
	taken := armed + ".taken"
	if os.Rename(armed, taken) != nil {
		return
	}
	pid := filepath.Join(taken, pidFile)
	err := os.WriteFile(pid+".new", []byte(strconv.Itoa(os.Getpid())), 0o600)
	if err == nil {
		err = os.Rename(pid+".new", pid)
	}
	if err != nil {
		panic("cannot take a failpoint: " + err.Error())
	}
	for {
		// To open a FIFO waits until somebody opens its other end.
		fd, err := unix.Open(filepath.Join(taken, goFIFO), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			_ = unix.Close(fd)
		}
		return
	}
}
