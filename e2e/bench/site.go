package bench

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/node"
	"pangaea/e2e/registry"
)

// site is a Nomad node on which jobs are measured.
type site struct {
	api       *api.Client
	image     string
	log       *bufio.Reader // Nomad's client's, read up to where the last measure ended
	processes func() ([]node.Process, error)
	out       io.Writer
	jobs      int // so far
}

// offer puts busybox into a registry and returns the image's name.
func offer(ctx context.Context, in *registry.Registry) (string, error) {
	image, err := registry.FromBinary(busybox)
	if err != nil {
		return "", err
	}
	_, err = in.Push(ctx, "busybox:1", image)
	return in.Address() + "/busybox:1", err
}

func openLog(path string) (*bufio.Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read Nomad's log: %w", err)
	}
	return bufio.NewReader(file), nil
}

// newID names a job that has not run before: Nomad does not run a job again that it knows and that has not changed.
func (n *site) newID(kind string, d driver) string {
	n.jobs++
	return fmt.Sprintf("%s-%s-%d", kind, d.name, n.jobs)
}

// job is a job of count tasks that run a busybox applet.
func (n *site) job(id string, d driver, count int, applet ...string) *api.Job {
	name, _, _ := strings.Cut(d.name, "+")
	task := api.NewTask("t", name).Require(&api.Resources{CPU: pointer(20), MemoryMB: pointer(cmp.Or(d.memory, 16))})
	task.Config = map[string]any{"args": applet}
	for key, value := range d.config {
		task.Config[key] = value
	}
	if d.fromImage {
		task.Config["image"] = n.image
	} else {
		task.Config["command"] = d.busybox
	}
	task.RestartPolicy = &api.RestartPolicy{Attempts: pointer(0), Mode: pointer("fail")}
	task.LogConfig = &api.LogConfig{MaxFiles: pointer(1), MaxFileSizeMB: pointer(1)}
	group := api.NewTaskGroup("g", count).AddTask(task)
	group.EphemeralDisk = &api.EphemeralDisk{SizeMB: pointer(10)}
	group.ReschedulePolicy = &api.ReschedulePolicy{Attempts: pointer(0), Unlimited: pointer(false)}
	return api.NewBatchJob(id, id, "global", 50).AddDatacenter("*").AddTaskGroup(group)
}

func pointer[T any](value T) *T { return &value }

func (n *site) submit(job *api.Job) error {
	_, _, err := n.api.Jobs().Register(job, nil)
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", *job.ID, err)
	}
	return nil
}

// stop stops a job and waits until nothing of it runs.
func (n *site) stop(ctx context.Context, job string) ([]*api.AllocationListStub, error) {
	_, _, err := n.api.Jobs().Deregister(job, false, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot stop %s: %w", job, err)
	}
	return n.await(ctx, job, func(stub *api.AllocationListStub) (bool, error) {
		state := stub.TaskStates["t"]
		return hasEnded(stub) && (state == nil || !state.FinishedAt.IsZero()), nil
	})
}

// complete waits until every task of a job has ended well.
func (n *site) complete(ctx context.Context, job string) ([]*api.AllocationListStub, error) {
	return n.await(ctx, job, func(stub *api.AllocationListStub) (bool, error) {
		if stub.ClientStatus == api.AllocClientStatusFailed {
			return false, fmt.Errorf("job %s failed: %s", job, told(stub))
		}
		return stub.ClientStatus == api.AllocClientStatusComplete, nil
	})
}

// running waits until count tasks of a job run.
func (n *site) running(ctx context.Context, job string) ([]*api.AllocationListStub, error) {
	return n.await(ctx, job, func(stub *api.AllocationListStub) (bool, error) {
		if hasEnded(stub) {
			return false, fmt.Errorf("job %s does not run on: %s", job, told(stub))
		}
		return stub.ClientStatus == api.AllocClientStatusRunning, nil
	})
}

func hasEnded(stub *api.AllocationListStub) bool {
	return slices.Contains([]string{api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost}, stub.ClientStatus)
}

// told is what a task's events say.
func told(stub *api.AllocationListStub) string {
	state := stub.TaskStates["t"]
	if state == nil || len(state.Events) == 0 {
		return "no event tells why"
	}
	var texts []string
	for _, event := range state.Events {
		texts = append(texts, event.DisplayMessage)
	}
	return strings.Join(texts, "; ")
}

// await returns a job's allocations once all that it wants are there and each is as wanted.
func (n *site) await(ctx context.Context, job string, isReady func(*api.AllocationListStub) (bool, error)) ([]*api.AllocationListStub, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	info, _, err := n.api.Jobs().Info(job, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("cannot read job %s: %w", job, err)
	}
	query := &api.QueryOptions{WaitTime: 10 * time.Second}
	for {
		// The server answers when something has changed: asking again and again would slow down what is measured.
		stubs, meta, err := n.api.Jobs().Allocations(job, true, query.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("cannot watch job %s: %w", job, err)
		}
		ready := 0
		for _, stub := range stubs {
			isOne, err := isReady(stub)
			if err != nil {
				return nil, err
			}
			if isOne {
				ready++
			}
		}
		if ready >= *info.TaskGroups[0].Count {
			return stubs, nil
		}
		query.WaitIndex = meta.LastIndex
	}
}

// eventTime is when a task's event of a type happened, by the client's clock, which is also ours.
func eventTime(stub *api.AllocationListStub, kind string) (time.Time, error) {
	if state := stub.TaskStates["t"]; state != nil {
		for _, event := range state.Events {
			if event.Type == kind {
				return time.Unix(0, event.Time), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("allocation %s tells of no event %q", stub.ID, kind)
}

// hooksDone finds in Nomad's trace log when a task's prestart hooks were done.
func (n *site) hooksDone(allocation string) (time.Time, error) {
	for {
		line, err := n.log.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return time.Time{}, fmt.Errorf("the log of Nomad does not tell when the hooks of allocation %s were done", allocation)
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot read Nomad's log: %w", err)
		}
		if strings.Contains(line, "finished prestart hooks") && strings.Contains(line, allocation) {
			return time.Parse("2006-01-02T15:04:05.000Z0700", strings.Fields(line)[0])
		}
	}
}

// settle lets Nomad remove what has ended, so that it does not do so during the next measure.
func (n *site) settle(ctx context.Context) error {
	nodes, _, err := n.api.Nodes().List((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot list the node: %w", err)
	}
	for _, stub := range nodes {
		err = n.api.Nodes().GC(stub.ID, (&api.QueryOptions{}).WithContext(ctx))
		// The answer is empty, which Nomad's client takes for one that was cut off.
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot have the node collect its garbage: %w", err)
		}
	}
	return pause(ctx, 2*time.Second)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// base is the last part of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
