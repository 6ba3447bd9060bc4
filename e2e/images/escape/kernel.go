package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// past is nil if a call got as far as to one of the errors that its deliberately wrong arguments lead to once the
// kernel has decided that the caller may make it.
func past(err error, later ...error) error {
	for _, l := range later {
		if errors.Is(err, l) {
			return nil
		}
	}
	return err
}

// call makes a system call.
func call(trap uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

// memory is a page of its own, outside of what Go moves about, with some words in it.
func memory(words ...uint64) uintptr {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	for i, w := range words {
		binary.NativeEndian.PutUint64(page[8*i:], w)
	}
	return uintptr(unsafe.Pointer(&page[0])) //nolint:gosec // the kernel reads and writes it
}

// text is a string as the kernel takes it.
func text(s string) uintptr {
	padded := make([]byte, len(s)+8)
	copy(padded, s)
	words := make([]uint64, len(padded)/8)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(padded[8*i:])
	}
	return memory(words...)
}

// forked makes a system call in a new process that has this one thread only, as some calls demand.
func forked(trap uintptr, args ...uintptr) error {
	return cloned(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, trap, args...)
}

// cloned does it in a process that clone makes, or clone3.
func cloned(clone, first, second, trap uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	pid, _, errno := unix.RawSyscall6(clone, first, second, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 { // Nothing of Go's works here: it had other threads.
		_, _, errno = unix.RawSyscall(trap, a[0], a[1], a[2])
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
	var status unix.WaitStatus
	_, err := unix.Wait4(int(pid), &status, 0, nil)
	if err != nil {
		return err
	}
	if status.Signaled() {
		return fmt.Errorf("killed by %v", status.Signal())
	}
	if status.ExitStatus() != 0 {
		return unix.Errno(status.ExitStatus())
	}
	return nil
}

// apart keeps what an attempt mounts from the other attempts, where a process may do that for itself.
func apart() {
	runtime.LockOSThread()
	if unix.Unshare(unix.CLONE_NEWNS) == nil {
		_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
}

// scratch is a new directory.
func scratch() string {
	dir, err := os.MkdirTemp("/tmp", "escape-")
	if err != nil {
		panic(err)
	}
	return dir
}

// holds is nil if a file has the host's token in it.
func (h *host) holds(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(content), h.Token) {
		return fmt.Errorf("%s is not the host's", path)
	}
	return nil
}
