package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/devpool"
	"pangaea/e2e/registry"
)

// busybox is Debian's static busybox: the same program for every driver.
const busybox = "/bin/busybox"

// measure runs jobs of one task on one member of a pool.
type measure struct {
	pool    *devpool.Pool
	cluster *devpool.Cluster
	direct  *api.Client // the member's own Nomad
	gateway *api.Client
	image   string
}

// prepare puts busybox into the registry and connects.
func (b *measure) prepare(ctx context.Context) error {
	image, err := registry.FromBinary(busybox)
	if err != nil {
		return err
	}
	_, err = b.pool.Registry.Push(ctx, "busybox:1", image)
	if err != nil {
		return err
	}
	b.image = b.pool.Registry.Address() + "/busybox:1"
	b.direct, err = b.cluster.API()
	if err != nil {
		return err
	}
	b.gateway, err = b.pool.API()
	return err
}

// job is a job of count tasks that run a busybox applet.
func (b *measure) job(id, driver string, count int, applet ...string) *api.Job {
	config := map[string]any{"image": b.image, "args": applet}
	if driver == "exec" {
		config = map[string]any{"command": busybox, "args": applet}
	}
	task := api.NewTask("t", driver).Require(&api.Resources{CPU: pointer(20), MemoryMB: pointer(16)})
	task.Config = config
	task.RestartPolicy = &api.RestartPolicy{Attempts: pointer(0), Mode: pointer("fail")}
	group := api.NewTaskGroup("g", count).AddTask(task)
	task.LogConfig = &api.LogConfig{MaxFiles: pointer(1), MaxFileSizeMB: pointer(1)}
	group.EphemeralDisk = &api.EphemeralDisk{SizeMB: pointer(10)}
	return api.NewBatchJob(id, id, "global", 50).AddDatacenter("*").AddTaskGroup(group).
		Constrain(api.NewConstraint("${meta.pool.member}", "=", b.cluster.Alias))
}

func pointer[T any](value T) *T { return &value }

// startOnce runs one task straight on the member and takes StartTask's time: from the end of Nomad's own hooks, by the
// client's trace log, to the task's Started event.
func (b *measure) startOnce(ctx context.Context, driver string, round int) (time.Duration, error) {
	job := b.job(fmt.Sprintf("start-%s-%d", driver, round), driver, 1, "true")
	_, _, err := b.direct.Jobs().Register(job, nil)
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", *job.ID, err)
	}
	defer purge(b.direct, *job.ID)
	allocation, started, err := awaitStarted(ctx, b.direct, *job.ID)
	if err != nil {
		return 0, err
	}
	hooks, err := hooksDone(filepath.Join(b.pool.Dir, "logs", b.cluster.Alias+"-client.log"), allocation)
	if err != nil {
		return 0, err
	}
	return started.Sub(hooks), nil
}

// runOnce submits a job and takes the time from the submission to the task's Started event.
func (b *measure) runOnce(ctx context.Context, throughGateway bool, round int) (time.Duration, error) {
	client, name := b.direct, "direct"
	if throughGateway {
		client, name = b.gateway, "gateway"
	}
	job := b.job(fmt.Sprintf("run-%s-%d", name, round), "runc", 1, "true")
	submitted := time.Now()
	_, _, err := client.Jobs().Register(job, nil)
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", *job.ID, err)
	}
	defer purge(client, *job.ID)
	_, started, err := awaitStarted(ctx, client, *job.ID)
	return started.Sub(submitted), err
}

func purge(client *api.Client, job string) {
	_, _, err := client.Jobs().Deregister(job, true, nil)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot purge %s: %v\n", job, err)
	}
}

// awaitStarted waits until the job's only task has ended, and returns its allocation and when it had started.
func awaitStarted(ctx context.Context, client *api.Client, job string) (string, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		stubs, _, err := client.Jobs().Allocations(job, true, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return "", time.Time{}, fmt.Errorf("cannot watch %s: %w", job, err)
		}
		for _, stub := range stubs {
			switch stub.ClientStatus {
			case api.AllocClientStatusComplete:
				return stub.ID, startedAt(stub), nil
			case api.AllocClientStatusFailed:
				return "", time.Time{}, fmt.Errorf("job %s failed: %+v", job, stub.TaskStates["t"])
			}
		}
		select {
		case <-ctx.Done():
			return "", time.Time{}, fmt.Errorf("job %s does not end: %w", job, ctx.Err())
		case <-ticker.C:
		}
	}
}

func startedAt(stub *api.AllocationListStub) time.Time {
	for _, event := range stub.TaskStates["t"].Events {
		if event.Type == api.TaskStarted {
			return time.Unix(0, event.Time)
		}
	}
	return time.Time{}
}

// hooksDone finds in a trace log when a task's prestart hooks were done.
func hooksDone(log, allocation string) (time.Time, error) {
	file, err := os.Open(log)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read Nomad's log: %w", err)
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 4<<20)
	for scanner.Scan() {
		line := scanner.Text()
		if strings.Contains(line, "finished prestart hooks") && strings.Contains(line, allocation) {
			return time.Parse("2006-01-02T15:04:05.000Z0700", strings.Fields(line)[0])
		}
	}
	return time.Time{}, fmt.Errorf("the log %s does not tell when the hooks of allocation %s were done", log, allocation)
}

// startSleepers starts idle tasks.
func (b *measure) startSleepers(ctx context.Context, count int) error {
	_, _, err := b.direct.Jobs().Register(b.job("sleepers", "runc", count, "sleep", "1000"), nil)
	if err != nil {
		return fmt.Errorf("cannot start idle tasks: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		stubs, _, err := b.direct.Jobs().Allocations("sleepers", true, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return fmt.Errorf("cannot watch idle tasks: %w", err)
		}
		running := 0
		for _, stub := range stubs {
			if stub.ClientStatus == api.AllocClientStatusRunning {
				running++
			}
		}
		if running == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d idle tasks run: %w", running, count, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *measure) stopSleepers(context.Context) error {
	_, _, err := b.direct.Jobs().Deregister("sleepers", true, nil)
	return err
}

// ownPSS adds up the proportional set size, in KiB, of every process of ours that exists once per task: those whose
// program is pangaea-shim or pangaea-runtime.
func ownPSS() (kib, processes int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot list processes: %w", err)
	}
	for _, dir := range dirs {
		exe, err := os.Readlink(dir + "/exe")
		if err != nil || (!strings.HasSuffix(exe, "/pangaea-shim") && !strings.HasSuffix(exe, "/pangaea-runtime")) {
			continue
		}
		rollup, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(rollup)) {
			rest, ok := strings.CutPrefix(line, "Pss:")
			if ok {
				size, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
				if err != nil {
					return 0, 0, fmt.Errorf("cannot read the memory of %s: %w", dir, err)
				}
				kib += size
			}
		}
		processes++
	}
	return kib, processes, nil
}
