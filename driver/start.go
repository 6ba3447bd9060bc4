package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/failpoint"
	"pangaea/driver/gpu"
	"pangaea/driver/image"
	"pangaea/driver/sandbox"
	"pangaea/driver/supervisor"
)

// startup is a task on its way: what the steps have made so far, and how to undo it.
type startup struct {
	d   *Driver
	ctx context.Context //nolint:containedctx // lives as long as one StartTask
	*tools
	conf   *settings
	cfg    *drivers.TaskConfig
	job    JobConfig
	lease  supervisor.Lease
	dir    string
	file   taskFile
	grants []gpu.Grant
	image  *image.Image
	facts  imageFacts
	plan   sandbox.Task
	task   *supervisor.Task
	undoMu sync.Mutex
	undo   []undo

	earlier     []*underway // starts of the same task that this one is to replace
	releaseLogs func()      // nil while they are not held
	// runtime is the operator's name of it.
	runtime string
}

// step is one part of a start. They run in order, and their undoing in reverse order.
type step struct {
	name string
	run  func(*startup) error
}

func steps() []step {
	return []step{
		{"validate", (*startup).validate},
		{"pull", (*startup).pull},
		{"identifiers", (*startup).claimIDs},
		{"holds", (*startup).takeHolds},
		{"root file system and network", (*startup).mountRootAndNetwork},
		{"user", (*startup).findUser},
		{"owners", (*startup).mapOwners},
		{"gpus", (*startup).grant},
		{"network's owner", (*startup).claimNetwork},
		{"sandbox", (*startup).launch},
	}
}

// StartTask starts a task. A failed start leaves nothing behind.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	s, done, err := d.begin(cfg)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	defer func() {
		if s.releaseLogs != nil {
			s.releaseLogs()
		}
	}()
	for _, step := range steps() {
		began := time.Now()
		err := step.run(s)
		d.log.Trace("start step", "task_id", cfg.ID, "step", step.name, "took", time.Since(began), "error", err)
		if err == nil {
			err = s.ctx.Err()
		}
		if err != nil {
			s.rollBack()
			return nil, nil, explain(err)
		}
	}
	failpoint.Here(s.dir, "plugin-started")
	h := d.newHandle(cfg, s.file, s.dir, s.task)
	taskHandle, err := h.export()
	if err != nil {
		s.rollBack()
		return nil, nil, err
	}
	err = s.settle(h)
	if err != nil {
		s.rollBack()
		return nil, nil, explain(err)
	}
	d.watchHealth(h)
	s.d.keepOwners(s.tools, h)
	// The next task's start is prepared now that this one's no longer competes with it.
	_ = d.spawn(s.warm)
	d.log.Debug("started task", "task_id", cfg.ID, "pid", s.task.Pid(), "took", time.Since(s.began()))
	return taskHandle, nil, nil
}

// begin notes that the task is starting, so that a stop or a shutdown can cut its pull short.
func (d *Driver) begin(cfg *drivers.TaskConfig) (*startup, func(), error) {
	t, err := d.open()
	if err != nil {
		return nil, nil, structs.NewRecoverableError(err, true)
	}
	ctx, cancel := context.WithCancel(context.WithValue(d.ctx, beganKey{}, time.Now()))
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.tasks[cfg.ID]
	_, busy := d.starting[cfg.ID]
	if known || busy {
		cancel()
		return nil, nil, fmt.Errorf("cannot start task %q: it was already started", cfg.ID)
	}
	start := &underway{alloc: cfg.AllocID, task: cfg.Name, cancel: cancel, ended: make(chan struct{})}
	earlier := d.siblings(start)
	d.starting[cfg.ID] = start
	done := func() {
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		close(start.ended)
		// It is gone already if it went well.
		delete(d.starting, cfg.ID)
	}
	return &startup{d: d, ctx: ctx, tools: t, conf: d.conf, cfg: cfg, earlier: earlier}, done, nil
}

type beganKey struct{}

func (s *startup) began() time.Time {
	t, _ := s.ctx.Value(beganKey{}).(time.Time)
	return t
}

// validate decodes the job's part and holds it to the operator's rules before anything is made.
func (s *startup) validate() error {
	err := s.cfg.DecodeDriverConfig(&s.job)
	if err != nil {
		return fmt.Errorf("cannot read the task's config: %w", err)
	}
	if len(s.conf.problems) > 0 {
		return fmt.Errorf("cannot start tasks: the driver's own configuration is wrong: %s", s.conf.problems[0])
	}
	err = permit(&s.job, s.conf)
	if err == nil {
		err = permitMemory(s.cfg, s.conf)
	}
	if err == nil {
		err = permitNetwork(s.cfg, &s.job, s.conf)
	}
	if err != nil {
		return err
	}
	err = s.chooseRuntime()
	if err == nil {
		err = s.permitOwnStack()
	}
	if err != nil {
		return err
	}
	s.grants, err = gpu.Grants(s.cfg.DeviceEnv)
	if err != nil {
		return err
	}
	err = s.confine()
	if err != nil {
		return err
	}
	s.lease, err = lease(s.cfg, &s.job)
	if err != nil {
		return err
	}
	_, err = healthOf(&s.job.Health, nil, nil)
	if err != nil {
		return err
	}
	// What the image says is not known yet; whatever is wrong without it is told before the pull.
	_, err = plan(s.cfg, &s.job, imageFacts{}, s.conf, &s.host)
	return err
}

// claimIDs makes the task's directory and gives it a range of identifiers.
func (s *startup) claimIDs() error {
	// While this process mounts and writes, the other processor starts programs.
	err := s.d.spawn(func() { s.supervisor.Ready(s.ctx) })
	if err == nil && s.wantsUplink() {
		err = s.d.spawn(s.uplinks.Warm)
	}
	if err != nil {
		return structs.NewRecoverableError(err, true)
	}
	err = s.endEarlier()
	if err != nil {
		// Whatever is in the way may go yet; the task must not fail for it.
		return structs.NewRecoverableError(err, true)
	}
	s.d.noteAllocDir(s.cfg.AllocDir)
	id := sandboxID(s.cfg.ID)
	s.dir = s.conf.taskDir(id)
	s.file = taskFile{
		TaskID: s.cfg.ID, AllocID: s.cfg.AllocID, Task: s.cfg.Name, AllocDir: s.cfg.AllocDir, ID: id,
		Image: s.image.Ref, Digest: s.image.Digest, Stop: s.facts.Stop, UUIDs: gpu.UUIDs(s.grants), Runtime: s.runtime,
	}
	s.file.Health, err = healthOf(&s.job.Health, s.image.Config.Healthcheck, s.image.Config.Shell)
	if err != nil {
		return err
	}
	err = makeTaskDir(s.dir, s.outlines.Take, s.fillTaskDir)
	if err != nil {
		return err
	}
	s.undone("cannot remove the task's directory", func() error { return removeTaskDir(s.dir) })
	return nil
}

// mountRootAndNetwork does the two at once, of which neither needs the other and each mostly waits for the kernel.
func (s *startup) mountRootAndNetwork() error {
	network := make(chan error)
	go func() { network <- s.network() }()
	err := s.mountRoot()
	networkErr := <-network
	if err != nil {
		return err
	}
	return networkErr
}

func (s *startup) mountRoot() error {
	disk, err := diskBytes(&s.job, s.conf)
	if err != nil {
		return err
	}
	request := image.MountRequest{ID: s.file.ID, Image: s.image, DiskBytes: disk}
	if !s.plan.HostUsers {
		request.HostUID, request.HostGID, request.IDCount = s.plan.IDStart, s.plan.IDStart, sandbox.IDRangeSize
	}
	s.undone("cannot unmount the task's root", func() error { return s.images.Unmount(s.file.ID) })
	s.plan.Rootfs, err = s.images.Mount(s.ctx, request)
	if err != nil {
		return fmt.Errorf("cannot mount the task's root file system: %w", err)
	}
	return nil
}

func (s *startup) findUser() (err error) {
	user := s.cfg.User
	if user == "" {
		user = s.facts.User
	}
	s.plan.User, err = resolveUser(s.plan.Rootfs, user)
	if err == nil {
		err = addGroups(s.plan.Rootfs, &s.plan.User, s.job.GroupAdd)
	}
	return err
}

func (s *startup) grant() error {
	err := s.makeNodes()
	if err != nil {
		return err
	}
	edits, err := s.gpus.Edits(s.file.UUIDs)
	if err != nil {
		return structs.NewRecoverableError(fmt.Errorf("cannot give the task its GPUs: %w", err), true)
	}
	err = s.d.runtimes.acceptsGPUs(s.ctx, s.conf.Runtimes[s.runtime], edits)
	if err != nil {
		return err
	}
	grantGPUs(&s.plan, edits)
	return nil
}

// launch builds the specification, checks it once more from the other end, and starts it.
func (s *startup) launch() error {
	// The pull may have taken an hour, in which profiles come and go.
	err := s.confine()
	if err != nil {
		return err
	}
	spec, err := sandbox.Spec(s.plan, s.host)
	if err != nil {
		return err
	}
	err = sandbox.Check(spec, sandbox.Loosened{
		HostUsers: s.conf.AllowHostUsers && s.plan.HostUsers, HostNetwork: s.conf.AllowHostNetwork && s.plan.HostNetwork, Capabilities: s.conf.caps,
		Swap: s.conf.AllowSwap, Seccomp: s.plan.Seccomp != "", AppArmor: s.plan.AppArmor,
	})
	if err != nil {
		return err
	}
	err = reserveCores(s.cfg, &s.host)
	if err != nil {
		return err
	}
	userns, err := s.userns()
	if err != nil {
		return err
	}
	if userns != nil {
		defer userns.Close()
	}
	s.undone("cannot end the task", s.endTask)
	s.task, err = s.supervisor.Start(s.ctx, supervisor.Launch{
		ID: s.file.ID, Dir: s.dir, Spec: spec, Stdout: logFIFO(s.cfg.StdoutPath), Stderr: logFIFO(s.cfg.StderrPath),
		Stdin: s.job.Interactive, Discard: s.conf.DisableLogCollection,
		Userns: userns, CpusetCgroup: cpusetCgroup(s.cfg, &s.host), Lease: s.lease, Runtime: s.other(),
	})
	if err != nil {
		return err
	}
	// The sandbox has its own copies of them by now.
	return unmountNetwork(s.dir)
}

// userns is the user namespace of the task's range, nil for a task that has the host's.
func (s *startup) userns() (*os.File, error) {
	if s.plan.HostUsers {
		return nil, nil
	}
	return s.images.Userns(s.plan.IDStart, s.plan.IDStart, sandbox.IDRangeSize)
}

// logFIFO is where the task's output goes: Nomad names /dev/null for a task whose logs are disabled.
func logFIFO(path string) string {
	if path == os.DevNull {
		return ""
	}
	return path
}

// explain tells Nomad which failures may pass, so that the job's restart policy applies to them. All others are fatal.
func explain(err error) error {
	var done *structs.RecoverableError
	if errors.As(err, &done) {
		return structs.NewRecoverableError(err, done.Recoverable)
	}
	if errors.Is(err, context.Canceled) {
		return structs.NewRecoverableError(errors.New("the start was cancelled"), false)
	}
	return structs.NewRecoverableError(err, image.IsRecoverable(err) || errors.Is(err, supervisor.ErrInterrupted))
}
