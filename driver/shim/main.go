package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/record"
	"pangaea/driver/signals"
)

// statusFd is where the supervisor reads how the start went.
const statusFd = 3

// initProgram is what this program is called where it is a sandbox's first process.
const initProgram = "pangaea-init"

func main() {
	if filepath.Base(os.Args[0]) == initProgram {
		os.Exit(becomeInit(os.Args[1:]))
	}
	// The heap is tiny and hardly grows: without this the collector would first run at 4 MiB, and with less
	// already while the task starts.
	debug.SetGCPercent(25)
	syscall.Umask(0o077)
	adopt := len(os.Args) == 3 && os.Args[1] == "--adopt"
	warm := len(os.Args) >= 3 && os.Args[1] == "--warm"
	if len(os.Args) != 2 && !adopt && !warm {
		_, _ = os.Stderr.WriteString("usage: pangaea-shim [--adopt] DIRECTORY | --warm RUNTIME [ARGUMENT...]\n")
		os.Exit(2)
	}
	s := &shim{dir: os.Args[len(os.Args)-1], pidfd: -1, warm: -1}
	unix.CloseOnExec(statusFd)
	err := s.begin(adopt, warm)
	if err != nil {
		s.report(failureWord(err) + " " + err.Error())
		os.Exit(1)
	}
	err = s.supervise()
	if err != nil {
		_, _ = os.Stderr.WriteString("pangaea-shim: " + err.Error() + "\n")
		os.Exit(1)
	}
}

// begin starts a task, at once or when one comes, or adopts one that runs.
func (s *shim) begin(adopt, warm bool) error {
	err := isolate()
	if err == nil && warm {
		err = s.awaitTask(os.Args[2:])
	}
	if err == nil {
		err = s.setUp()
	}
	if err == nil && adopt {
		return s.adopt()
	}
	if err == nil && abandoned() {
		// Whoever looked for the task before it was locked has found nothing, and will not look again.
		err = errAbandoned
	}
	if err == nil {
		err = s.launch()
	}
	return err
}

// isolate makes this process independent of whoever started it.
func isolate() error {
	signals.Heed()
	err := os.Chdir("/")
	if err != nil {
		return wrap("set up the shim", err)
	}
	// The sandbox's init is the runtime's child; when the runtime is gone it must become ours, or its exit
	// code would be told to the machine's init instead.
	err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err != nil {
		return wrap("set up the shim", err)
	}
	// Best effort: when memory is short the shim should go after the tasks. It takes CAP_SYS_RESOURCE.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-998"), 0)
	return nil
}

// sign writes this process's pid and start time into its lock.
func sign(fd int) error {
	start, err := record.StartTime(os.Getpid())
	if err == nil {
		err = unix.Ftruncate(fd, 0)
	}
	if err == nil {
		_, err = unix.Pwrite(fd, []byte(itoa(os.Getpid())+" "+strconv.FormatUint(start, 10)+"\n"), 0)
	}
	if err != nil {
		return wrap("sign the task's lock", err)
	}
	return nil
}

// lock keeps a second shim away from the task; the lock goes with the process. It says whose it is, so that a shim that
// is stopped or stuck before it has written a state can be found and killed.
func lock(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap("open the task's lock", err)
	}
	// Someone who only asks whether there is a shim holds the lock for an instant, or for as long as it is not scheduled.
	for range 200 {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return sign(fd)
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = unix.Close(fd)
	return errors.New("another shim has the task")
}
