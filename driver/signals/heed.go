// Package signals undoes what tasks would inherit from whoever started Nomad: signals that are ignored. It is for the
// lean programs that start tasks, touches their own process only, and imports nothing but system calls.
package signals

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's, not libc's: see rt_sigaction(2).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigDefault = 0
	sigIgnored = 1
	lastSignal = 64
)

// Heed undoes that a signal is ignored because whoever started Nomad ignored it, as nohup does with SIGHUP: that
// would pass down to the task, whose program may well rely on the default.
func Heed() {
	for signal := uintptr(1); signal <= lastSignal; signal++ {
		var was sigaction
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, 0, uintptr(unsafe.Pointer(&was)), unsafe.Sizeof(was.mask), 0, 0) //nolint:gosec // The kernel fills in this struct.
		if errno != 0 || was.handler != sigIgnored {
			continue
		}
		now := sigaction{handler: sigDefault}
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&now)), 0, unsafe.Sizeof(now.mask), 0, 0) //nolint:gosec // The kernel reads this struct.
	}
}
