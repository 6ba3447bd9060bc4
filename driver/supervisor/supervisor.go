package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/driver/cgroup"
	"pangaea/driver/failpoint"
	"pangaea/driver/record"
)

// Names in a task's directory besides the records.
const (
	bundleFile = "config.json"
	shimLog    = "shim.log"
	shimLock   = "shim.lock"
	runtimeLog = "runtime.log"
	execFIFO   = "exec.fifo"
)

// cleanTimeout bounds how long what is left of a task may take to go.
const cleanTimeout = 15 * time.Second

// Supervisor starts and finds tasks.
type Supervisor struct {
	conf   Config
	mu     sync.Mutex
	spare  *spare        // Or nil; guarded by mu.
	closed chan struct{} // Closed by Close, with mu held.
	// warming holds who keeps the kernel ready for all starts that are under way.
	warming chan struct{}
}

// New returns a supervisor; it does no I/O.
func New(conf Config) *Supervisor {
	if conf.RuntimeKind == "" {
		conf.RuntimeKind = KindPangaea
	}
	if conf.Logger == nil {
		conf.Logger = hclog.NewNullLogger()
	}
	return &Supervisor{conf: conf, closed: make(chan struct{}), warming: make(chan struct{}, 1)}
}

// Start runs a task and returns when the user's program runs, or why it can't. A task with a lease is
// returned while it is still held.
func (s *Supervisor) Start(ctx context.Context, l Launch) (*Task, error) {
	launch, group, err := s.prepare(l)
	if err != nil {
		return nil, err
	}
	var child *shimProcess
	err = reserve(launch, l.Spec, group)
	if err == nil {
		child, err = s.shim(launch, l.Dir)
	}
	if err == nil {
		err = child.started(ctx)
	}
	var t *Task
	if err == nil {
		t, err = s.attach(l.Dir, launch, group)
	}
	if err != nil {
		child.end()
		return nil, errors.Join(err, s.clean(l.Dir, launch, group))
	}
	t.watch(child)
	return t, nil
}

// attach makes a Task of the state that a shim has written.
func (s *Supervisor) attach(dir string, launch *record.Launch, group cgroup.Task) (*Task, error) {
	state, err := record.ReadState(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the task's state: %w", err)
	}
	t := &Task{
		sup: s, dir: dir, launch: launch, state: state, group: group,
		done: make(chan struct{}), told: make(chan struct{}), quit: make(chan struct{}), watched: make(chan struct{}),
	}
	// A task that has ended already has no init any more; its exit record tells the rest.
	t.init, err = openProcess(state.Pid, state.StartTime)
	if err != nil && !errors.Is(err, record.ErrNotSameProcess) {
		return nil, err
	}
	return t, nil
}

// Recover finds the task whose records lie in dir: running, or ended with a known exit. It fails with
// ErrGone when nothing is left and no exit code can be told; what no one can account for is killed.
func (s *Supervisor) Recover(dir string) (*Task, error) {
	launch, err := record.ReadLaunch(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, record.ErrMalformed) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	group, err := cgroup.New(launch.CgroupsPath)
	if err != nil {
		return nil, err
	}
	if !awaitStart(dir, launch) {
		s.conf.Logger.Warn("a task's shim does not get on with its start; it is killed", "task_id", launch.ID)
		evict(dir)
	}
	verdict := record.Decide(facts(dir, launch, group))
	if verdict == record.Orphan {
		// It is about to be killed, so look again: the facts are not read at one instant.
		verdict = record.Decide(facts(dir, launch, group))
	}
	switch verdict {
	case record.Running, record.Adopt, record.Ending:
		t, err := s.attach(dir, launch, group)
		if err != nil {
			return nil, err
		}
		t.watch(findShim(t.state))
		return t, nil
	case record.Exited:
		return s.ended(dir, launch, group)
	}
	s.conf.Logger.Warn("a task is lost", "task_id", launch.ID, "verdict", string(verdict))
	err = s.clean(dir, launch, group)
	if err != nil {
		// Not ErrGone: something is still there.
		return nil, err
	}
	return nil, ErrGone
}

// Lost is for a task that had started and of which Recover finds nothing: it has ended, and nobody knows how. It fails
// with ErrGone if the machine was restarted since, which ends all tasks without saying anything of them.
func (s *Supervisor) Lost(dir string) (*Task, error) {
	launch, err := record.ReadLaunch(dir)
	if err != nil {
		return nil, ErrGone
	}
	boot, err := record.BootID()
	if err != nil || boot != launch.BootID {
		return nil, ErrGone
	}
	group, err := cgroup.New(launch.CgroupsPath)
	if err != nil {
		return nil, err
	}
	err = record.WriteExit(dir, &record.Exit{Version: record.Version, AtUnixNs: time.Now().UnixNano(), Unknown: true})
	if err != nil {
		return nil, err
	}
	return s.ended(dir, launch, group)
}

// ended makes a Task of an exit record.
func (s *Supervisor) ended(dir string, launch *record.Launch, group cgroup.Task) (*Task, error) {
	t, err := s.attach(dir, launch, group)
	if errors.Is(err, os.ErrNotExist) {
		t = &Task{
			sup: s, dir: dir, launch: launch, state: &record.State{}, group: group,
			done: make(chan struct{}), told: make(chan struct{}), quit: make(chan struct{}), watched: make(chan struct{}),
		}
	} else if err != nil {
		return nil, err
	}
	exit, err := record.ReadExit(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read how the task ended: %w", err)
	}
	t.finish(exit)
	close(t.watched)
	return t, nil
}

// facts gathers what record.Decide needs.
func facts(dir string, launch *record.Launch, group cgroup.Task) record.Facts {
	var f record.Facts
	boot, err := record.BootID()
	f.SameBoot = err == nil && boot == launch.BootID
	// This is looked at before the init is: a sandbox that was never started is removed after its init has died,
	// and must not be taken for one that was started and lives.
	f.Started = hasStarted(dir, launch)
	// The exit record is looked for last: a task that ends meanwhile is then seen as ended or as still running.
	state, err := record.ReadState(dir)
	f.HasState = err == nil
	if f.HasState {
		f.InitAlive = record.Alive(state.Pid, state.StartTime)
		f.ShimAlive = record.Alive(state.ShimPid, state.ShimStartTime)
	}
	f.Populated = len(group.Pids()) > 0
	_, err = record.ReadExit(dir)
	f.HasExit = err == nil
	return f
}

// Standing tells, of a task that nobody watches, whether any of it may still run that somebody may want, and whether it
// has ever started, so that somebody was told of it.
func Standing(dir string) (runs, started bool) {
	launch, err := record.ReadLaunch(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, record.ErrMalformed) {
		return false, false
	}
	var group cgroup.Task
	if err == nil {
		group, err = cgroup.New(launch.CgroupsPath)
	}
	if err != nil || locked(filepath.Join(dir, shimLock)) {
		return true, true
	}
	f := facts(dir, launch, group)
	started = f.HasExit || f.HasState && (f.Started || launch.LeaseTTLMs > 0)
	switch record.Decide(f) {
	case record.Exited, record.Gone:
		return false, started
	case record.Orphan:
		return started, started // or else a start that was cut short
	}
	return true, true
}

// hasStarted says whether the sandbox was told to run its program: our runtime keeps a FIFO until then, and for the
// others the shim notes it.
func hasStarted(dir string, launch *record.Launch) bool {
	if launch.RuntimeKind != KindPangaea {
		_, err := os.Lstat(filepath.Join(dir, record.StartedFile))
		return err == nil
	}
	_, err := os.Lstat(filepath.Join(launch.Root(dir), launch.ID, execFIFO))
	return err != nil
}

// awaitStart waits for a shim that is just starting a task: it finishes, or gives up because the supervisor that
// started it is gone. A task that is held by its lease has finished starting in this sense. It says false when the shim
// does neither.
func awaitStart(dir string, launch *record.Launch) bool {
	started := false
	for deadline := time.Now().Add(cleanTimeout); time.Now().Before(deadline); {
		state, err := record.ReadState(dir)
		started = err == nil && (launch.LeaseTTLMs > 0 || hasStarted(dir, launch))
		runs := started && record.Alive(state.Pid, state.StartTime)
		// A shim whose task has ended, or will not start, is about to go.
		if runs || !locked(filepath.Join(dir, shimLock)) {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return started // and ended: its shim is slow to write how, but it alone knows
}

// awaitUnlocked waits for a shim that is about to go.
func awaitUnlocked(dir string) {
	for deadline := time.Now().Add(cleanTimeout); time.Now().Before(deadline); {
		if !locked(filepath.Join(dir, shimLock)) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// clean removes what is left of a task that nobody supervises, except for its directory.
func (s *Supervisor) clean(dir string, launch *record.Launch, group cgroup.Task) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	err := group.KillAll(ctx)
	if err != nil {
		return err
	}
	failpoint.Here(dir, "plugin-clean")
	if launch.RuntimeKind == KindOCI {
		s.deleteOCI(ctx, dir, launch)
	}
	err = group.Remove(ctx)
	if err != nil {
		return err
	}
	err = os.RemoveAll(launch.Root(dir))
	if err != nil {
		return fmt.Errorf("cannot remove the sandbox's state: %w", err)
	}
	return nil
}

// validID says whether an id can name a sandbox and a directory.
func validID(id string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	return id != "" && len(id) <= 128 && strings.Trim(id, letters) == "" && strings.Trim(id, ".") != ""
}
