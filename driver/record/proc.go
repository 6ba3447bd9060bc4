package record

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotSameProcess says that a pid belongs to another process than the recorded one, or to none.
var ErrNotSameProcess = errors.New("the recorded process is gone")

// BootID names this boot of the machine.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// StartTime reads when a process started, in clock ticks since boot, and whether it is a zombie.
func StartTime(pid int) (ticks uint64, zombie bool, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	// The name is in brackets and may hold anything, brackets and spaces included, so count from the last one.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return 0, false, errors.New("cannot parse the process's stat file")
	}
	fields := strings.Fields(string(data[i+1:]))
	const state, startTime = 0, 19
	if len(fields) <= startTime {
		return 0, false, errors.New("cannot parse the process's stat file")
	}
	ticks, err = strconv.ParseUint(fields[startTime], 10, 64)
	return ticks, fields[state] == "Z" || fields[state] == "X", err
}

// OpenPidfd opens the process with that pid and start time. The start time is read after the pidfd is open:
// the pidfd then pins the very process whose start time was read, or the read fails, so that a reused pid is
// never taken for the task.
func OpenPidfd(pid int, startTime uint64) (int, error) {
	if pid <= 1 {
		return -1, ErrNotSameProcess
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, ErrNotSameProcess
	}
	got, _, err := StartTime(pid)
	if err == nil && got == startTime && unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	return -1, ErrNotSameProcess
}

// Alive says whether the process with that pid and start time exists and has not ended.
func Alive(pid int, startTime uint64) bool {
	if pid <= 1 {
		return false
	}
	got, zombie, err := StartTime(pid)
	return err == nil && got == startTime && !zombie
}

// Exit status by pidfd, Linux 6.15: it can be read by whoever holds a pidfd that was opened before the process
// was reaped, also by one who is not its parent.
const (
	pidfdGetInfo  = 0xC000FF0B // _IOWR(0xFF, 11, ...), the size is or-ed in
	pidfdInfoExit = 1 << 3
)

type pidfdInfo struct {
	Mask     uint64
	CgroupID uint64
	Pid      uint32
	Tgid     uint32
	Ppid     uint32
	IDs      [8]uint32
	ExitCode int32
}

// ExitStatus asks the kernel how the process behind a pidfd ended; it says false when the kernel can't tell:
// the process still runs or is not reaped yet, or the kernel is older than 6.15.
func ExitStatus(pidfd int) (unix.WaitStatus, bool) {
	info := pidfdInfo{Mask: pidfdInfoExit}
	request := uintptr(pidfdGetInfo | unsafe.Sizeof(info)<<16)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), request, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.Mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.ExitCode), true
}

// FromStatus fills in a wait status.
func (e *Exit) FromStatus(status unix.WaitStatus) {
	if status.Signaled() {
		e.Signal = int(status.Signal())
		e.Code = 128 + e.Signal
		return
	}
	e.Code = status.ExitStatus()
}
