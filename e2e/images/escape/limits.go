package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limits is the group of attempts to take more than the task was given.
const limits = "limits"

// alone are groups that each take a task of their own, for what they exhaust others of the same task lack. Go ends a program
// that gets no thread, and while the kernel takes back the memory of the process that it has ended, it may end another
// that wants some.
func (h *host) alone() []group {
	return []group{
		{"threads", []attempt{{"more than the limit", h.moreThreads}}},
		{"memory", []attempt{{"more than the limit", h.moreMemory}}},
	}
}

func (h *host) limits() []attempt {
	return []attempt{
		{"more than /dev/shm", func() error { return fill("/dev/shm/escape", h.Space) }},
		{"more than /tmp", func() error { return fill("/tmp/escape", h.Space) }},
		{"more open files", func() error {
			var l unix.Rlimit
			err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
			l.Max++
			return errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &l))
		}},
		{"a better nice value", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) }},
		{"real-time scheduling", func() error {
			return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
		}},
		{"real-time I/O", func() error {
			const process, realTime = 1, 1 << 13
			return call(unix.SYS_IOPRIO_SET, process, 0, realTime)
		}},
		{"a life after others' for want of memory", func() error {
			was, err := os.ReadFile("/proc/self/oom_score_adj")
			n, convErr := strconv.Atoi(strings.TrimSpace(string(was)))
			return errors.Join(err, convErr, os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(n-1)), 0))
		}},
	}
}

// moreThreads starts threads. The kernel counts them as processes, and Go ends a program that it refuses one.
func (h *host) moreThreads() error {
	var hold [2]int
	err := unix.Pipe2(hold[:], unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	started := make(chan bool)
	for range h.Threads {
		go func() {
			runtime.LockOSThread()
			started <- true
			_, _ = unix.Read(hold[0], make([]byte, 1)) // for ever
		}()
		<-started
	}
	return nil
}

// moreMemory writes to as much memory as it is told. Whoever takes most is ended first; this says so beforehand.
func (h *host) moreMemory() error {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if err != nil {
		return err
	}
	all, err := unix.Mmap(-1, 0, h.Memory<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	for i := 0; i < len(all); i += os.Getpagesize() {
		all[i] = 1
	}
	return nil
}

// fill writes a file of some MiB.
func fill(path string, size int) error {
	f, err := os.Create(filepath.Clean(path))
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	defer f.Close()
	for n := range size {
		_, err = f.Write(make([]byte, 1<<20))
		if err != nil {
			return fmt.Errorf("after %d MiB: %w", n, err)
		}
	}
	return nil
}
