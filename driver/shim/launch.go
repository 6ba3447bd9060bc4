package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/failpoint"
	"pangaea/driver/record"
)

// kindOwn is our own runtime; all others are driven by the OCI command line, kindOCI as runc is.
const (
	kindOwn = "pangaea"
	kindOCI = "oci"
)

// refusal is what a task's end is put down to if its program never ran.
const refusal = "the kernel refused to execute the program: it is made for another machine, or its interpreter is missing"

// programTime bounds how long the kernel may take to find the program, on a slow machine or file system, before the
// task is said to have started. A program that is refused later is told of at the task's end.
const programTime = 5 * time.Second

// initName is what libcontainer's init, also runc's, calls itself until it becomes the task's program.
const initName = "runc:[2:INIT]"

// launch creates the sandbox, records it and starts the task's program.
func (s *shim) launch() error {
	err := s.openStreams(true)
	if err == nil {
		err = s.openStdin()
	}
	if err != nil {
		return err
	}
	s.lease.begin(now())
	s.child = true
	failpoint.Here(s.dir, "shim-launch")
	if s.conf.RuntimeKind == kindOwn {
		err = s.launchOwn()
	} else {
		err = s.launchOCI()
	}
	if err != nil {
		s.kill()
	}
	return err
}

// args is the runtime's command line for a verb.
func (s *shim) args(verb string, more ...string) []string {
	args := append([]string{s.conf.Runtime}, s.conf.RuntimeArgs...)
	args = append(args, "--root", s.conf.Root(s.dir), "--log", filepath.Join(s.dir, "runtime.log"), verb)
	return append(append(args, more...), s.conf.Container())
}

// runtimeEnv is the runtime's environment. Two of its threads take turns (one of them is in the sandbox's mount
// namespace), and on one processor each turn would wait for the scheduler; more would only be more threads.
func runtimeEnv() []string {
	return []string{"GOMAXPROCS=2", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// withUs has the kernel end the runtime when this process is killed. A runtime that outlived its shim might only then
// come to empty the task's cgroup for a sandbox of its own, and kill the next start of the same task in it.
func withUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// spawn runs the runtime with the task's stdio, and perhaps one descriptor more.
func (s *shim) spawn(args []string, extra ...uintptr) (int, error) {
	files := append([]uintptr{uintptr(s.stdin), uintptr(s.out[0].taskEnd), uintptr(s.out[1].taskEnd)}, extra...)
	if s.conf.RuntimeKind != kindOwn {
		// This process has no huge pages, which its children inherit; the task shall have what the host gives.
		_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0)
		defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }()
	}
	pid, err := syscall.ForkExec(s.conf.Runtime, args, &syscall.ProcAttr{
		Dir: "/", Env: runtimeEnv(), Files: files, Sys: withUs(),
	})
	if err != nil {
		return 0, wrap("run "+s.conf.Runtime, err)
	}
	return pid, nil
}

// launchOwn runs our own runtime, which creates and starts in one process.
func (s *shim) launchOwn() error {
	more := []string{"--bundle", s.dir, "--control", "3"}
	if s.conf.CpusetCgroup != "" {
		more = append(more, "--cpuset", s.conf.CpusetCgroup)
	}
	if s.conf.Userns != "" {
		more = append(more, "--userns", s.conf.Userns)
	}
	runtime, control, err := s.engage(s.args("create", more...))
	s.closeTaskEnds()
	if err != nil {
		return err
	}
	talk := conversation{fd: control}
	pid := 0
	text, err := talk.next("created")
	if err == nil {
		pid, err = strconv.Atoi(text)
	}
	if err == nil {
		err = s.takeTerminal()
	}
	if err == nil {
		err = s.record(pid)
	}
	if err == nil {
		failpoint.Here(s.dir, "shim-created")
		err = s.admit(talk.letGo)
	}
	// A runtime that was not told to start gives up when the socket closes.
	_ = unix.Close(control)
	if err != nil {
		s.waitChild(runtime)
		return err
	}
	err = s.startedOrFailed()
	s.waitChild(runtime)
	return err
}

// engage has our own runtime work, the one that waits or else a new one, and returns its pid and control socket.
func (s *shim) engage(args []string) (pid, control int, err error) {
	pid, control, ok := s.order(args)
	if ok {
		return pid, control, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, wrap("make a socket", err)
	}
	pid, err = s.spawn(args, uintptr(pair[1]))
	_ = unix.Close(pair[1])
	return pid, pair[0], err
}

// admit starts the program, at once or when the lease says so.
func (s *shim) admit(start func() error) error {
	if !s.lease.exists() {
		if abandoned() {
			return errAbandoned
		}
		err := s.openSinks()
		if err != nil {
			return err
		}
		return start()
	}
	s.report("held")
	if !s.hold() {
		s.unstarted = true
		return nil // Its end is seen and recorded like that of a task that ran.
	}
	err := s.openSinks()
	if err == nil {
		err = start()
	}
	if err != nil {
		// Nobody listens any more: the exit record must tell.
		var cut *interrupted
		s.error, s.unstarted = err.Error(), errors.As(err, &cut)
		s.kill()
	}
	return nil
}

// waitChild reaps one child of ours.
func (s *shim) waitChild(pid int) unix.WaitStatus {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR {
			return status
		}
	}
}

// becameProgram waits until the init has become the task's program. The runtime can't tell: it only knows that
// the init was about to.
func (s *shim) becameProgram() {
	deadline := now() + programTime
	// Go's own sleep would be rounded up to whole milliseconds by epoll.
	pause := unix.Timespec{Nsec: int64(50 * time.Microsecond)}
	for s.name() == initName && !s.ended() && now() < deadline {
		_ = unix.Nanosleep(&pause, nil)
	}
}

func (s *shim) name() string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(s.state.Pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}

// ended says whether the init is a zombie, which it stays until we reap it, name and all.
func (s *shim) ended() bool {
	fds := []unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents != 0
}

// killed says whether somebody killed the init, which is a task's end like any other. The kernel itself ends a program
// that it can't run by another signal, or the init says so and exits.
func (s *shim) killed() bool {
	status, known := record.ExitStatus(s.pidfd, s.state.Pid, s.state.StartTime)
	return known && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// refused says whether the init ended without having become the task's program, and was not killed.
func (s *shim) refused() bool {
	return !s.unstarted && s.error == "" && s.ended() && s.name() == initName && !s.killed()
}

// startedOrFailed waits for what becomes of the program and reports it, if anybody still listens.
func (s *shim) startedOrFailed() error {
	if s.lease.exists() {
		return nil
	}
	s.becameProgram()
	if s.refused() {
		return errors.New(refusal)
	}
	failpoint.Here(s.dir, "shim-started")
	s.report("started")
	return nil
}

// conversation is what we and our runtime say to each other, in lines: it says the pid, we say go, and it says
// that the program started, or why not.
type conversation struct {
	fd   int
	rest []byte
}

// next reads one line and returns what comes after its first word, which must be the expected one.
func (c *conversation) next(expected string) (string, error) {
	var buffer [512]byte
	for {
		end := slices.Index(c.rest, '\n')
		if end >= 0 {
			word, text, _ := strings.Cut(string(c.rest[:end]), " ")
			c.rest = c.rest[end+1:]
			if word == wordRetry {
				return "", &interrupted{errors.New(text)}
			}
			if word != expected {
				return "", errors.New(text)
			}
			return text, nil
		}
		n, err := unix.Read(c.fd, buffer[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return "", errRuntimeDied
		}
		c.rest = append(c.rest, buffer[:n]...)
	}
}

func (c *conversation) letGo() error {
	// If this fails the runtime has given up, and has said why.
	_, _ = unix.Write(c.fd, []byte("go"))
	_, err := c.next("started")
	return err
}
