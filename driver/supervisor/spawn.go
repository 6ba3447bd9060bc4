package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"pangaea/driver/cgroup"
	"pangaea/driver/record"
)

// Outline makes the files in a task's directory that Start fills, so that it need not make them. Empty they say nothing.
func Outline(dir string) error {
	for _, name := range []string{bundleFile, shimLock, shimLog, runtimeLog} {
		err := os.WriteFile(filepath.Join(dir, name), nil, 0o600)
		if err != nil {
			return fmt.Errorf("cannot prepare a task's files: %w", err)
		}
	}
	return record.Outline(dir)
}

// prepare checks a launch and writes the bundle and the launch record.
func (s *Supervisor) prepare(l Launch) (*record.Launch, cgroup.Task, error) {
	var group cgroup.Task
	err := check(l)
	if err != nil {
		return nil, group, err
	}
	group, err = cgroup.New(l.Spec.Linux.CgroupsPath)
	if err != nil {
		return nil, group, fmt.Errorf("cannot use the cgroup path %q: %w", l.Spec.Linux.CgroupsPath, err)
	}
	if locked(filepath.Join(l.Dir, shimLock)) {
		return nil, group, fmt.Errorf("cannot start task %s: its directory still has a task that runs", l.ID)
	}
	err = clearRecords(l.Dir)
	if err != nil {
		return nil, group, err
	}
	launch, err := s.launchRecord(l)
	if err != nil {
		return nil, group, err
	}
	spec, err := s.suit(l, launch)
	if err != nil {
		return nil, group, err
	}
	bundle, err := json.Marshal(spec)
	if err != nil {
		return nil, group, fmt.Errorf("cannot encode the sandbox's spec: %w", err)
	}
	err = os.WriteFile(filepath.Join(l.Dir, bundleFile), bundle, 0o600)
	if err != nil {
		return nil, group, fmt.Errorf("cannot write the sandbox's bundle: %w", err)
	}
	return launch, group, record.WriteLaunch(l.Dir, launch)
}

func check(l Launch) error {
	switch {
	case !validID(l.ID):
		return fmt.Errorf("cannot name a sandbox %q: use at most 128 letters, digits, '_', '-' and '.'", l.ID)
	case !filepath.IsAbs(l.Dir):
		return fmt.Errorf("cannot keep the task's state in %q: the path is not absolute", l.Dir)
	case l.Spec == nil || l.Spec.Linux == nil || l.Spec.Process == nil || l.Spec.Root == nil:
		return errors.New("internal error: the sandbox's spec lacks linux, process or root")
	case l.Spec.Hooks != nil:
		return errors.New("internal error: the sandbox's spec has hooks, which never run here")
	case l.Lease.TTL < 0 || l.Lease.TTL > 0 && !filepath.IsAbs(l.Lease.File):
		return errors.New("cannot lease the task: a lease needs a positive time to live and an absolute file path")
	}
	return nil
}

// clearRecords removes an earlier run's records: an old exit record would be taken for this run's.
func clearRecords(dir string) error {
	for _, path := range []string{
		filepath.Join(dir, record.StateFile), filepath.Join(dir, record.ExitFile), filepath.Join(dir, record.StartedFile),
		filepath.Join(dir, record.RuntimeDir), runscRoot(dir),
	} {
		err := os.RemoveAll(path)
		if err != nil {
			return fmt.Errorf("cannot remove an earlier run's records: %w", err)
		}
	}
	return nil
}

func (s *Supervisor) launchRecord(l Launch) (*record.Launch, error) {
	boot, err := record.BootID()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this boot from others: %w", err)
	}
	runtime, ok := s.runtime(l.Runtime)
	if !ok {
		return nil, fmt.Errorf("internal error: there is no runtime %q", l.Runtime)
	}
	userns := ""
	if l.Userns != nil && runtime.Kind == KindPangaea {
		userns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.Userns.Fd())
	}
	return &record.Launch{
		Version: record.Version, ID: l.ID, BootID: boot,
		Shim: s.conf.ShimPath, Runtime: runtime.Path,
		RuntimeName: l.Runtime, RuntimeKind: runtime.Kind, RuntimeArgs: runtime.Args,
		Stdout: l.Stdout, Stderr: l.Stderr, TTY: l.Spec.Process.Terminal, Stdin: l.Stdin, Discard: l.Discard,
		StdioUID:    hostID(l.Spec.Process.User.UID, l.Spec.Linux.UIDMappings),
		StdioGID:    hostID(l.Spec.Process.User.GID, l.Spec.Linux.GIDMappings),
		CgroupsPath: l.Spec.Linux.CgroupsPath, CpusetCgroup: l.CpusetCgroup, Userns: userns,
		LeaseFile: l.Lease.File, LeaseTTLMs: l.Lease.TTL.Milliseconds(),
	}, nil
}

// hostID is the id on the host of an id in the sandbox.
func hostID(id uint32, mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + id - m.ContainerID)
		}
	}
	return int(id)
}

// shimProcess is a shim: a child of ours with a status pipe, or one that a predecessor started.
type shimProcess struct {
	process *process
	child   *exec.Cmd
	status  *os.File
}

// shim has a shim start the task: the one that waits, or a new one.
func (s *Supervisor) shim(launch *record.Launch, dir string) (*shimProcess, error) {
	waiting := s.hire(launch, dir)
	if waiting != nil {
		return waiting, nil
	}
	return s.spawn(launch, dir)
}

// spawn starts a shim for a task.
func (s *Supervisor) spawn(launch *record.Launch, dir string, flags ...string) (*shimProcess, error) {
	log, err := os.OpenFile(filepath.Join(dir, shimLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the shim's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(s.shimPath(launch), append(flags, dir)...)
	cmd.Stdout, cmd.Stderr = log, log
	return startShim(cmd)
}

func (s *Supervisor) shimPath(launch *record.Launch) string {
	if s.conf.ShimPath != "" {
		return s.conf.ShimPath
	}
	return launch.Shim
}

// started waits for the shim's word.
func (p *shimProcess) started(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.status.SetReadDeadline(unblock()) })
	defer stop()
	defer p.status.Close()
	line, err := bufio.NewReader(p.status).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	text, failed := strings.CutPrefix(line, "error ")
	why, interrupted := strings.CutPrefix(line, "retry ")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot wait for the task to start: %w", ctx.Err())
	case failed:
		return fmt.Errorf("cannot start the task: %s", text)
	case interrupted:
		return fmt.Errorf("cannot start the task: %w: %s", ErrInterrupted, why)
	case err != nil:
		return fmt.Errorf("cannot start the task: %w: its shim died; see shim.log in the task's directory", ErrInterrupted)
	}
	return nil
}

// end kills a shim whose task did not start, and waits for it.
func (p *shimProcess) end() {
	if p == nil {
		return
	}
	_ = p.process.signal(unix.SIGKILL)
	p.reap()
}

// reap waits until the shim has ended.
func (p *shimProcess) reap() {
	_ = p.process.wait(context.Background())
	p.process.close()
	if p.child != nil {
		_ = p.child.Wait()
	}
}

// findShim finds the shim that a predecessor of this process started; nil if it is gone.
func findShim(state *record.State) *shimProcess {
	p, err := openProcess(state.ShimPid, state.ShimStartTime)
	if err != nil {
		return nil
	}
	return &shimProcess{process: p}
}

// evict kills the shim that holds a task's lock and does not let go of it: it is stopped, or stuck.
func evict(dir string) {
	if !locked(filepath.Join(dir, shimLock)) {
		return
	}
	text, err := os.ReadFile(filepath.Join(dir, shimLock))
	if err != nil {
		return
	}
	var pid int
	var start uint64
	_, err = fmt.Sscan(string(text), &pid, &start)
	if err != nil {
		return
	}
	shim, err := openProcess(pid, start)
	if err != nil {
		return
	}
	defer shim.close()
	// A kill works on a stopped process too. The lock may have passed on since it was read.
	_ = shim.signal(unix.SIGKILL)
	awaitUnlocked(dir)
}

// locked says whether a living shim holds the task's lock.
func locked(path string) bool {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) != nil
}
