package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes are attempts at the host's processes, at what the runtime may have left open, and at shared memory.
func (h *host) processes() []attempt {
	file := func(name string) string { return fmt.Sprintf("/proc/%d/%s", h.PID, name) }
	return []attempt{
		{"see another's process", func() error { return others(func(string) error { return nil }) }},
		{"overwrite another's program", func() error { return others(overwrite) }},
		{"signal the host's process", h.outside(func() error { return unix.Kill(h.PID, 0) })},
		{"signal it by its descriptor", h.outside(func() error {
			fd, err := unix.PidfdOpen(h.PID, 0)
			return errors.Join(err, unix.PidfdSendSignal(fd, 0, nil, 0))
		})},
		{"take a descriptor of its", h.outside(func() error {
			fd, err := unix.PidfdOpen(h.PID, 0)
			if err == nil {
				_, err = unix.PidfdGetfd(fd, 1, 0)
			}
			return err
		})},
		{"trace it", h.outside(func() error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(h.PID)) })},
		{"read its memory", h.outside(func() error {
			// One byte at address 1, where nothing is.
			return past(call(unix.SYS_PROCESS_VM_READV, uintptr(h.PID), memory(uint64(memory()), 1), 1, memory(1, 1), 1), unix.EFAULT)
		})},
		{"write its memory", h.outside(func() error {
			return past(call(unix.SYS_PROCESS_VM_WRITEV, uintptr(h.PID), memory(uint64(memory()), 1), 1, memory(1, 1), 1), unix.EFAULT)
		})},
		{"compare with it", h.outside(func() error {
			return call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(h.PID), 1) // KCMP_VM
		})},
		{"move its memory", h.outside(func() error { return call(unix.SYS_MOVE_PAGES, uintptr(h.PID)) })},
		{"read its limits", h.outside(func() error { return unix.Prlimit(h.PID, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}) })},
		{"read its environment", func() error { return h.holds(file("environ")) }},
		{"have it ended for want of memory", h.outside(func() error { return writable(file("oom_score_adj")) })},
		{"open its memory", h.outside(func() error { return writable(file("mem")) })},
		{"see the host by its root", func() error { return h.holds(file("root") + h.Canary) }},
		{"see the host by its directory", func() error { return h.holds(file("cwd/secret")) }},
		{"see the host by the root of process 1", func() error { return h.holds("/proc/1/root" + h.Canary) }},
		{"have a descriptor of the runtime's (CVE-2024-21626)", leaked},
		{"see the host by a descriptor", h.descriptors},
		{"stand outside (CVE-2024-21626)", func() error { return h.holds("." + h.Canary) }},
		{"see its shared memory", func() error {
			return call(unix.SYS_SHMGET, uintptr(h.Shm))
		}},
		{"see its file in /dev/shm", func() error { return h.holds("/dev/shm/" + h.Token) }},
		{"see its message queue", func() error {
			return call(unix.SYS_MQ_OPEN, text(h.Token), unix.O_RDONLY)
		}},
	}
}

// outside takes an attempt at the host's process that a process of the task's own might answer, which has the number.
func (h *host) outside(try func() error) func() error {
	return func() error {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.PID))
		if err == nil && string(name) == "escape\n" {
			return errors.New("that is a process of ours")
		}
		return try()
	}
}

// others is nil if an attempt at a process that is not of this program is.
func others(try func(dir string) error) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	err = errors.Join(err, errors.New("there is none"))
	for _, dir := range dirs {
		name, readErr := os.ReadFile(filepath.Join(dir, "comm"))
		if readErr != nil || string(name) == "escape\n" {
			continue
		}
		err = try(dir)
		if err == nil {
			return reached(fmt.Sprintf("%s %s", dir, name))
		}
		err = fmt.Errorf("%s %s: %w", dir, bytes.TrimSpace(name), err)
	}
	return err
}

// overwrite opens a process's program for writing by way of a descriptor that outlives it, as in CVE-2019-5736. While
// the program runs, the kernel says that it is busy, and only to those who may write it.
func overwrite(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, "exe"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	program, err := os.Readlink(descriptor(fd))
	if err == nil && strings.HasSuffix(program, "/escape") {
		return errors.New("it is ours by now")
	}
	err = errors.Join(err, past(writable(descriptor(fd)), unix.ETXTBSY))
	if err == nil {
		return reached(program)
	}
	return err
}

func descriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// leaked is nil if anything but the usual three was open when this program was started.
func leaked() error {
	for fd := 3; fd < 1024; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 { // unlike whatever Go itself opens
			return nil
		}
	}
	return errors.New("there is none")
}

func (h *host) descriptors() error {
	for fd := 3; fd < 1024; fd++ {
		file, err := unix.Openat(fd, strings.TrimPrefix(h.Canary, "/"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil && h.holds(descriptor(file)) == nil {
			return nil
		}
	}
	return errors.New("none leads there")
}

// watch waits for runtimes that join the task, and tries to overwrite each one's program.
func watch() outcome {
	o := outcome{Group: "watching", Name: "overwrite a runtime that joins (CVE-2019-5736)"}
	seen := 0
	for ; unix.Access("/tmp/made", unix.F_OK) != nil; time.Sleep(100 * time.Microsecond) {
		err := others(overwrite)
		o.Reached = o.Reached || err == nil
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			seen++
		}
	}
	o.Detail = fmt.Sprint("refused times: ", seen)
	return o
}
