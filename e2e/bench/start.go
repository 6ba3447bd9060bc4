package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// sleeper is a program that waits and obeys SIGTERM at once, which the first process of a pid namespace must ask for.
var sleeper = []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"}

// startTask measures StartTask for a cached image: from the end of Nomad's own hooks, by the client's trace log, to the
// task's Started event.
func (n *site) startTask(ctx context.Context, d driver) (float64, error) {
	job := n.newID("start", d)
	err := n.submit(n.job(job, d, 1, "true"))
	if err != nil {
		return 0, err
	}
	stubs, err := n.complete(ctx, job)
	if err != nil {
		return 0, err
	}
	started, err := eventTime(stubs[0], api.TaskStarted)
	if err != nil {
		return 0, err
	}
	hooks, err := n.hooksDone(stubs[0].ID)
	return milliseconds(started.Sub(hooks)), err
}

// stopTask measures a stop: from the request to the task's Killed event.
func (n *site) stopTask(ctx context.Context, d driver) (float64, error) {
	job := n.newID("stop", d)
	err := n.submit(n.job(job, d, 1, sleeper...))
	if err != nil {
		return 0, err
	}
	_, err = n.running(ctx, job)
	if err != nil {
		return 0, err
	}
	// The shell has to get as far as its trap.
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	stubs, err := n.stop(ctx, job)
	if err != nil {
		return 0, err
	}
	killed, err := eventTime(stubs[0], api.TaskKilled)
	return milliseconds(killed.Sub(began)), err
}

// hundreds measures a hundred tasks of each driver, by turns; the rows before have warmed all sides up.
func (n *site) hundreds(ctx context.Context, drivers []driver) ([]Row, error) {
	row := Row{What: "100 tasks of true on one node", Unit: "s", Promises: []Promise{{Limit: 8}, {Limit: 0.65, Of: "exec"}}}
	fmt.Fprintf(n.out, "==> %s\n", row.What)
	for range longRounds {
		for _, d := range drivers {
			err := row.take(ctx, d.name, d.foreign, true, func() (float64, error) { return n.hundred(ctx, d) })
			if err != nil {
				return nil, err
			}
		}
	}
	return []Row{row}, nil
}

// hundred measures a hundred tasks of true: from the job's submission to the last Terminated event.
func (n *site) hundred(ctx context.Context, d driver) (float64, error) {
	job := n.newID("hundred", d)
	began := time.Now()
	err := n.submit(n.job(job, d, 100, "true"))
	if err != nil {
		return 0, err
	}
	stubs, err := n.complete(ctx, job)
	if err != nil {
		return 0, err
	}
	var last time.Time
	for _, stub := range stubs {
		ended, err := eventTime(stub, api.TaskTerminated)
		if err != nil {
			return 0, err
		}
		if ended.After(last) {
			last = ended
		}
	}
	return last.Sub(began).Seconds(), n.settle(ctx)
}
