package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// What a shell says of a program that it can't execute, and of one that it can't find.
const (
	codeNotExecuted = 126
	codeNotFound    = 127
)

// otherExec is one program that a runtime which is not ours runs in a sandbox. The runtime's own exit code does not
// tell whether the program ran, and its end would leave the program running; so it is asked to write down which
// process the program is.
type otherExec struct {
	task *Task
	dir  string
}

// newOtherExec makes a place for what the runtime says of the program; nil for our own runtime.
func (t *Task) newOtherExec() (*otherExec, error) {
	if t.launch.RuntimeKind == KindPangaea {
		return nil, nil
	}
	dir, err := os.MkdirTemp(t.dir, "exec-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory for the program: %w", err)
	}
	return &otherExec{task: t, dir: dir}, nil
}

func (e *otherExec) close() {
	if e != nil {
		_ = os.RemoveAll(e.dir)
	}
}

// fitCpuset makes the task's own cgroup v1 cpuset as large as the one that Nomad manages and the task is in: runc has in
// its own what it runs beside the task.
func (t *Task) fitCpuset() error {
	if t.launch.CpusetCgroup == "" || t.launch.RuntimeKind != KindOCI {
		return nil
	}
	group, err := cgroup.New(t.launch.CgroupsPath)
	if err != nil {
		return err
	}
	cpus, err := os.ReadFile(filepath.Join(t.launch.CpusetCgroup, "cpuset.cpus"))
	if err == nil {
		err = os.WriteFile(filepath.Join(group.Dir("cpuset"), "cpuset.cpus"), cpus, 0) //nolint:gosec // a cgroup that Nomad named
	}
	if err != nil {
		return fmt.Errorf("cannot keep the program to the task's processors: %w", err)
	}
	return nil
}

func (e *otherExec) pidFile() string { return filepath.Join(e.dir, "pid") }
func (e *otherExec) logFile() string { return filepath.Join(e.dir, "log") }

// pid is the program's, in the sandbox with runsc and on the host with others; "" as long as it has not started.
func (e *otherExec) pid() string {
	text, _ := os.ReadFile(e.pidFile())
	return strings.TrimSpace(string(text))
}

// args is the runtime's command line for it.
func (e *otherExec) args(args []string) []string {
	pidFile := "--pid-file"
	if e.task.launch.RuntimeKind == KindRunsc {
		pidFile = "--internal-pid-file"
	}
	return append([]string{"--log", e.logFile()}, append(args, pidFile, e.pidFile())...)
}

// kill ends the program.
func (e *otherExec) kill(runtime *os.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	for e.pid() == "" && ctx.Err() == nil && runtime.Signal(syscall.Signal(0)) == nil {
		time.Sleep(10 * time.Millisecond)
	}
	pid, err := strconv.Atoi(e.pid())
	switch {
	case err != nil || pid <= 1:
		return runtime.Kill()
	case e.task.launch.RuntimeKind == KindRunsc:
		return e.task.runsc(ctx, "kill", "--pid", strconv.Itoa(pid), runscID, "KILL")
	}
	return unix.Kill(pid, unix.SIGKILL)
}

// code is the program's exit code; runtimes have one of their own for a program that they could not run.
func (e *otherExec) code(code int, err error) (int, error) {
	const runscFailed, runcFailed = 128, 255
	if e == nil || err != nil || code != runscFailed && code != runcFailed || e.pid() != "" {
		return code, err
	}
	log, _ := os.ReadFile(e.logFile())
	text := record.LastMessage(string(log))
	switch {
	case text == "" || e.task.ended():
		return 0, errors.New("the runtime could not run the program")
	case strings.Contains(text, "no such file or directory"), strings.Contains(text, "executable file not found"):
		return codeNotFound, nil
	}
	return codeNotExecuted, nil
}

// runsc runs a command that says something on failure only.
func (t *Task) runsc(ctx context.Context, args ...string) error {
	out, err := t.sup.runtimeCommand(ctx, t.dir, t.launch, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run runsc %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// signalRunsc signals the task's first program. Its kernel passes on what it gets itself, except for what Go uses,
// and for what would stop that kernel with everything in it.
func (t *Task) signalRunsc(sig unix.Signal) error {
	switch sig {
	case unix.SIGSTOP, unix.SIGURG, unix.SIGPIPE, unix.SIGCHLD:
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		return t.runsc(ctx, "kill", runscID, unix.SignalName(sig))
	}
	return t.init.signal(sig)
}

// Takes tells why a signal can't be sent to the task, which depends on its runtime, or nil. gVisor's kernel passes no
// real-time signal on, and runsc kill knows none, neither by its name nor by its number.
func (t *Task) Takes(sig unix.Signal) error {
	const realTime = 32
	if t.launch.RuntimeKind == KindRunsc && sig >= realTime {
		return fmt.Errorf("cannot send signal %d: gVisor takes no real-time signals from outside", sig)
	}
	return nil
}

// execPty runs a program on a terminal of the host's. runsc makes none in the sandbox, and runc lets nobody have the one
// that it makes there unless it is told to leave the program alone, whose exit code is then lost.
func (t *Task) execPty(ctx context.Context, r ExecRequest, process *os.File, size *specs.Box) (int, error) {
	master, slave, err := openPty()
	if err != nil {
		return 0, err
	}
	var flags []string
	if t.launch.RuntimeKind == KindOCI {
		flags = []string{"--tty"}
		err = passInput(slave)
	}
	if err != nil {
		return 0, errors.Join(err, master.Close(), slave.Close())
	}
	cmd, inner, err := t.execCommand(ctx, process, flags...)
	if err != nil {
		return 0, errors.Join(err, master.Close(), slave.Close())
	}
	defer inner.close()
	if size != nil {
		setSize(master, Size{Rows: int(size.Height), Cols: int(size.Width)})
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	if err != nil {
		return 0, errors.Join(fmt.Errorf("cannot run the runtime: %w", err), master.Close(), slave.Close())
	}
	_ = slave.Close()
	done := converse(master, r)
	err = cmd.Wait()
	done()
	return inner.code(exitCode(ctx, cmd, err))
}

// openPty makes a terminal; the side that programs see is taken from the other, so that no path is involved.
func openPty() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a terminal: %w", err)
	}
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	if err != nil {
		_ = unix.Close(fd)
		return nil, nil, fmt.Errorf("cannot unlock a terminal: %w", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		_ = unix.Close(fd)
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", errno)
	}
	return os.NewFile(uintptr(fd), "terminal"), os.NewFile(peer, "terminal"), nil
}

// passInput has a terminal pass on what is typed as it is. There is a second terminal between it and the program, which
// echoes, and knows an end of input by ^D. The runtime does the same, but only once the program runs: until then this
// terminal would take a ^D for an end of the runtime's own input, and the program's would never come.
func passInput(terminal *os.File) error {
	fd := int(terminal.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("cannot read a terminal's mode: %w", err)
	}
	mode.Iflag, mode.Lflag = 0, 0
	err = unix.IoctlSetTermios(fd, unix.TCSETS, mode)
	if err != nil {
		return fmt.Errorf("cannot set a terminal's mode: %w", err)
	}
	return nil
}
