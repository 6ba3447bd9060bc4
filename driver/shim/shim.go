package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// shim is the supervision of one task.
type shim struct {
	dir    string
	conf   *record.Launch
	group  cgroup.Task
	state  record.State
	pidfd  int
	child  bool // The task's init is our own child or will be, so wait4 tells how it ended.
	status unix.WaitStatus
	known  bool
	lease  lease
	out    [2]stream
	null   int
	// stdin is the task's end of its input, console our end of the socket on which its terminal comes, or -1.
	stdin, console int
	// consolePath is where a runtime that is not ours connects to the console, "" for our own.
	consolePath string
	// warm is the control socket of a runtime that was started ahead of the task, or -1; warmPid is the runtime.
	warm, warmPid int
	// unstarted says that the task was killed before its program could start; error, why the program never ran.
	unstarted bool
	error     string
}

// setUp reads what the supervisor wrote down.
func (s *shim) setUp() error {
	err := lock(filepath.Join(s.dir, "shim.lock"))
	if err != nil {
		return err
	}
	s.conf, err = record.ReadLaunch(s.dir)
	if err != nil {
		return err
	}
	s.group, err = cgroup.New(s.conf.CgroupsPath)
	s.lease = lease{file: s.conf.LeaseFile, ttl: time.Duration(s.conf.LeaseTTLMs) * time.Millisecond}
	return err
}

// report tells the supervisor one line, and that there is no more to tell.
func (s *shim) report(line string) {
	_, _ = unix.Write(statusFd, []byte(strings.ReplaceAll(line, "\n", " ")+"\n"))
	_ = unix.Close(statusFd)
}

// abandoned says that the supervisor died before the task started: then nobody knows of the task.
func abandoned() bool {
	fds := []unix.PollFd{{Fd: statusFd}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// record writes down what runs.
func (s *shim) record(pid int) error {
	start, err := record.StartTime(pid)
	if err != nil {
		return &interrupted{wrap("find the sandbox's init", err)}
	}
	s.pidfd, err = record.OpenPidfd(pid, start)
	if err != nil {
		return &interrupted{wrap("hold the sandbox's init", err)}
	}
	s.state = record.State{
		Version: record.Version, ID: s.conf.ID, BootID: s.conf.BootID,
		Pid: pid, StartTime: start, CreatedUnixNs: time.Now().UnixNano(),
		OOMBaseline: s.group.OOMKills(), ForksBaseline: s.group.ForksRefused(),
	}
	return s.writeState()
}

func (s *shim) writeState() error {
	own, err := record.StartTime(os.Getpid())
	if err != nil {
		return wrap("find this process", err)
	}
	s.state.ShimPid, s.state.ShimStartTime = os.Getpid(), own
	return record.WriteState(s.dir, &s.state)
}

// adopt takes over a running task whose shim was killed.
func (s *shim) adopt() error {
	_, err := record.ReadExit(s.dir)
	if err == nil {
		// While this process waited for the lock.
		return errRecorded
	}
	state, err := record.ReadState(s.dir)
	if err != nil {
		return err
	}
	s.state = *state
	s.pidfd, err = record.OpenPidfd(state.Pid, state.StartTime)
	if err != nil {
		return err
	}
	err = s.openStreams(false)
	if err != nil {
		return err
	}
	s.lease.begin(now())
	err = s.writeState()
	if err != nil {
		return err
	}
	s.report("started")
	return nil
}

// kill ends the task at once. Init's death takes its whole pid namespace along; the cgroup has the rest.
func (s *shim) kill() {
	if s.pidfd >= 0 {
		_ = unix.PidfdSendSignal(s.pidfd, syscall.SIGKILL, nil, 0)
	}
	s.group.Kill()
}

// now is the time since boot, suspension included, so that no clock change and no sleep stretches a lease.
func now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}
