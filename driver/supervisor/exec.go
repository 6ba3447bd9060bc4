package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lingerTime is how long an exec's output is still read after its program has ended: children in the background
// may hold the pipe for ever.
const lingerTime = 300 * time.Millisecond

// moveTime is how long the runtime may take until it has moved a program to its cgroups.
const moveTime = 50 * time.Millisecond

// stopTime is how long the runtime gets to kill a program whose exec was cancelled.
const stopTime = 10 * time.Second

// Exec runs a program in the sandbox and returns its exit code. A program that can't be run has the code that
// a shell gives it, 126 or 127, and the reason on Stderr.
func (t *Task) Exec(ctx context.Context, r ExecRequest) (int, error) {
	if t.ended() || !hasStarted(t.dir, t.launch) {
		return 0, ErrNotRunning
	}
	// While the runtime begins, the kernel gets ready to move the program to the task's cgroups.
	var warming sync.WaitGroup
	defer warming.Wait()
	early, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	warming.Go(func() { t.sup.warmCgroups(early) })
	process, err := t.execProcess(r)
	if err != nil {
		return 0, err
	}
	file, err := memoryFile(process)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	switch {
	case r.TTY && t.launch.RuntimeKind != KindPangaea:
		return t.execPty(ctx, r, file, process.ConsoleSize)
	case r.TTY:
		return t.execTTY(ctx, r, file)
	}
	return t.execPipes(ctx, r, file)
}

// execProcess is the task's own process with the request's changes: same capabilities, same limits.
func (t *Task) execProcess(r ExecRequest) (*specs.Process, error) {
	if len(r.Args) == 0 {
		return nil, errors.New("cannot run nothing in the sandbox: name a program")
	}
	spec, err := t.bundle()
	if err != nil {
		return nil, err
	}
	process := spec.Process
	process.Args = r.Args
	process.Env = append(process.Env, r.Env...)
	process.Terminal = r.TTY
	if r.Cwd != "" {
		process.Cwd = r.Cwd
	}
	process.ConsoleSize = firstSize(r)
	if r.User != "" {
		process.User, err = t.lookUpUser(r.User)
	}
	return process, err
}

// bundle is what the sandbox was made of.
func (t *Task) bundle() (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(t.dir, bundleFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the sandbox's bundle: %w", err)
	}
	var spec specs.Spec
	err = json.Unmarshal(data, &spec)
	if err != nil || spec.Process == nil || spec.Root == nil {
		return nil, fmt.Errorf("cannot decode the sandbox's bundle: %w", err)
	}
	return &spec, nil
}

// firstSize is the terminal's size if it is known already, so that the program does not see it change at once.
func firstSize(r ExecRequest) *specs.Box {
	select {
	case size, ok := <-r.Resize:
		if ok && r.TTY && size.Rows > 0 && size.Cols > 0 {
			return &specs.Box{Height: uint(size.Rows), Width: uint(size.Cols)}
		}
	default:
	}
	return nil
}

// memoryFile hands a process to the runtime: its environment may hold secrets, which belong on no disk and
// in no argument list.
func memoryFile(process *specs.Process) (*os.File, error) {
	data, err := json.Marshal(process)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the process: %w", err)
	}
	fd, err := unix.MemfdCreate("process.json", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), "process.json")
	_, err = file.Write(data)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot write a memory file: %w", err)
	}
	return file, nil
}

// execCommand is the runtime's command that runs the process. A cancelled context asks the runtime to kill it.
func (t *Task) execCommand(ctx context.Context, process *os.File, flags ...string) (*exec.Cmd, *otherExec, error) {
	args := append([]string{"exec", "--process", "/proc/self/fd/3"}, flags...)
	inner, err := t.newOtherExec()
	if err != nil {
		return nil, nil, err
	}
	switch {
	case inner != nil:
		args = inner.args(args)
		err = t.fitCpuset()
	case t.launch.CpusetCgroup != "":
		args = append(args, "--cpuset", t.launch.CpusetCgroup)
	}
	if err != nil {
		inner.close()
		return nil, nil, err
	}
	cmd := t.sup.runtimeCommand(ctx, t.dir, t.launch, append(args, t.launch.Container())...)
	cmd.ExtraFiles = []*os.File{process}
	cmd.Cancel = func() error {
		if inner != nil {
			return inner.kill(cmd.Process)
		}
		return cmd.Process.Signal(unix.SIGTERM)
	}
	cmd.WaitDelay = stopTime
	return cmd, inner, nil
}

func (t *Task) execPipes(ctx context.Context, r ExecRequest, process *os.File) (int, error) {
	cmd, inner, err := t.execCommand(ctx, process)
	if err != nil {
		return 0, err
	}
	defer inner.close()
	outputs, err := pipeOutputs(cmd, r)
	if err != nil {
		return 0, err
	}
	var stdin io.WriteCloser
	if r.Stdin != nil {
		stdin, err = cmd.StdinPipe()
		if err != nil {
			outputs.abort()
			return 0, fmt.Errorf("cannot make a pipe: %w", err)
		}
	}
	err = cmd.Start()
	if err != nil {
		outputs.abort()
		return 0, fmt.Errorf("cannot run the runtime: %w", err)
	}
	outputs.started()
	if stdin != nil {
		// It ends when the reader does; nobody waits, for a terminal's user may never type again.
		go func() {
			_, _ = io.Copy(stdin, r.Stdin)
			_ = stdin.Close()
		}()
	}
	err = cmd.Wait()
	outputs.linger()
	return inner.code(exitCode(ctx, cmd, err))
}

// exitCode is the runtime's exit code, which is the program's.
func exitCode(ctx context.Context, cmd *exec.Cmd, err error) (int, error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("the program was killed: %w", ctx.Err())
	}
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("cannot wait for the runtime: %w", err)
	}
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		return 0, errors.New("the runtime was killed")
	}
	return code, nil
}
