package record

import (
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

// stat is what /proc says of a process.
type stat struct {
	zombie    bool
	startTime uint64
	exitCode  unix.WaitStatus // Meaningful for zombies only.
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(data))
}

// parseStat reads proc_pid_stat(5). The name is in brackets and may hold anything, brackets and spaces included,
// so the fields are counted from the last bracket.
func parseStat(text string) (stat, error) {
	const state, startTime, exitCode, all = 0, 19, 49, 50
	malformed := errors.New("cannot parse the process's stat file")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < all {
		return stat{}, malformed
	}
	start, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return stat{}, malformed
	}
	code, err := strconv.ParseUint(fields[exitCode], 10, 32)
	if err != nil {
		return stat{}, malformed
	}
	zombie := fields[state] == "Z" || fields[state] == "X"
	return stat{zombie: zombie, startTime: start, exitCode: unix.WaitStatus(code)}, nil
}

// StartTime reads when a process started, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	now, err := readStat(pid)
	return now.startTime, err
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
	got, err := StartTime(pid)
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
	now, err := readStat(pid)
	return err == nil && now.startTime == startTime && !now.zombie
}

// Exit status by pidfd, Linux 6.15: whoever holds a pidfd that was opened before the process was reaped can read
// it afterwards, parent or not.
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

// ExitStatus asks the kernel how a process ended that is not our child. As long as its parent has not reaped it,
// /proc tells; afterwards the pidfd does. It says false when the process still runs, or when it was reaped and the
// kernel is older than 6.15.
func ExitStatus(pidfd, pid int, startTime uint64) (unix.WaitStatus, bool) {
	now, err := readStat(pid)
	if err == nil && now.startTime == startTime && now.zombie {
		return now.exitCode, true
	}
	return pidfdExit(pidfd)
}

func pidfdExit(pidfd int) (unix.WaitStatus, bool) {
	info := pidfdInfo{Mask: pidfdInfoExit}
	request := pidfdGetInfo | unsafe.Sizeof(info)<<16
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), request, uintptr(unsafe.Pointer(&info))) //nolint:gosec // The ioctl fills in this struct, whose size is in the request.
	if errno != 0 || info.Mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.ExitCode), true
}

// Counters are what a task's cgroup counts.
type Counters interface {
	OOMKills() uint64
	ForksRefused() uint64
}

// FromCounters fills in what of the cgroup's counters may be why a task failed.
func (e *Exit) FromCounters(now Counters, s *State) {
	e.OOMKilled = e.Code != 0 && now.OOMKills() > s.OOMBaseline
	e.ForkRefused = e.Code != 0 && now.ForksRefused() > s.ForksBaseline
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
