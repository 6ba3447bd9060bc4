package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// spare is a shim, with a runtime of its own, that waits to be told its task.
type spare struct {
	*shimProcess
	order *os.File // Whose end is the pair's end.
}

// Ready prepares this machine for a Start that comes soon, until ctx ends.
func (s *Supervisor) Ready(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(s.Warm)
	s.warmCgroups(ctx)
	wg.Wait()
}

// warmCgroups has the kernel ready to move processes between cgroups until ctx ends. One is enough for all: each would
// block every fork on the machine for as long as it moves a process.
func (s *Supervisor) warmCgroups(ctx context.Context) {
	select {
	case s.warming <- struct{}{}:
		cgroup.Warm(ctx)
		<-s.warming
	case <-ctx.Done():
	}
}

// Warm has a shim and a runtime started and waiting, so that the next Start need not wait for that. The pair holds
// nothing of any task, serves one, and ends with Close or with this process. Without a pair, Start makes do.
func (s *Supervisor) Warm() {
	if s.conf.RuntimeKind != KindPangaea {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() || s.spare != nil && s.spare.process.alive() {
		return
	}
	s.spare.dismiss()
	var err error
	s.spare, err = s.newSpare()
	if err != nil {
		// Start will fail for the same reason, and there is somebody to tell.
		s.conf.Logger.Debug("cannot start a shim ahead of its task", "error", err)
	}
}

// Close ends the waiting pair and leaves the tasks alone: of what has ended it holds the logs no longer.
func (s *Supervisor) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isClosed() {
		close(s.closed)
	}
	s.spare.dismiss()
	s.spare = nil
}

func (s *Supervisor) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *Supervisor) newSpare() (*spare, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command(s.conf.ShimPath, append([]string{"--warm", s.conf.RuntimePath}, s.conf.RuntimeArgs...)...)
	cmd.Stdin = read
	shim, err := startShim(cmd)
	if err != nil {
		write.Close()
		return nil, err
	}
	return &spare{shimProcess: shim, order: write}, nil
}

// hire gives the task of a directory to the waiting pair; nil if there is none that lives, or none for its runtime.
func (s *Supervisor) hire(launch *record.Launch, dir string) *shimProcess {
	if launch.RuntimeName != "" {
		return nil
	}
	s.mu.Lock()
	pair := s.spare
	s.spare = nil
	s.mu.Unlock()
	if pair == nil {
		return nil
	}
	if strings.Contains(dir, "\n") || !pair.process.alive() {
		pair.dismiss()
		return nil
	}
	_, err := pair.order.WriteString(dir + "\n")
	if err != nil {
		pair.dismiss()
		return nil
	}
	_ = pair.order.Close()
	return pair.shimProcess
}

// dismiss ends a pair that has no task: the runtime goes when its shim has gone.
func (p *spare) dismiss() {
	if p == nil {
		return
	}
	_ = p.order.Close()
	_ = p.status.Close()
	p.end()
}

// hugePages guards the process's own word on huge pages.
var hugePages sync.Mutex

// withoutHugePages starts a process that gets none. A shim touches a few pages here and there, each of which would be
// 2 MiB on a kernel that gives huge pages to all, such as Debian's. What it starts in turn inherits that, until the
// runtime's init, or the shim before it starts another runtime, takes it back for the task.
func withoutHugePages(start func() error) error {
	hugePages.Lock()
	defer hugePages.Unlock()
	err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("cannot do without huge pages: %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }()
	return start()
}

// startShim starts a shim in a session of its own, with nothing of ours but the status pipe.
func startShim(cmd *exec.Cmd) (*shimProcess, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer write.Close()
	pidfd := -1
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	err = withoutHugePages(cmd.Start)
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("cannot start the shim: %w", err)
	}
	p, err := fromPidfd(pidfd)
	if err != nil {
		read.Close()
		_ = cmd.Process.Signal(unix.SIGKILL)
		_ = cmd.Wait()
		return nil, err
	}
	return &shimProcess{process: p, child: cmd, status: read}, nil
}
