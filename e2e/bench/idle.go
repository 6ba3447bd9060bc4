package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// sleepers is how many tasks stand idle while memory and processor time are measured.
	sleepers = 50
	// idleTime is how long the machine's processor time is watched.
	idleTime = 10 * time.Second
	// calmTime lets what started the tasks come to rest.
	calmTime = 4 * time.Second
)

// idle measures what many idle tasks of each driver cost the machine.
func (n *site) idle(ctx context.Context, drivers []driver) ([]Row, error) {
	memory := Row{
		What: fmt.Sprintf("host memory per idle task, PSS of helpers, %d tasks", sleepers), Unit: "MiB", Promises: []Promise{{Limit: 1}},
	}
	busy := Row{
		What: fmt.Sprintf("machine's CPU with %d idle tasks, of one core", sleepers), Unit: "%", Promises: []Promise{{Limit: 12}},
	}
	own := Row{What: fmt.Sprintf("CPU of the driver's own processes with %d idle tasks, of one core", sleepers), Unit: "%"}
	own.Note = "plugins, daemons and helpers; of exec and raw_exec the helpers alone, for the drivers are in Nomad"
	fmt.Fprintf(n.out, "==> %d idle tasks\n", sleepers)
	none, err := busyShare(ctx, calmTime, idleTime)
	if err != nil {
		return nil, err
	}
	busy.Note = "with no task: " + number(none) + " %; Nomad's logmon takes part of it, whatever the driver"
	for _, d := range drivers {
		err = n.withIdle(ctx, d, sleepers, func() error {
			err := pause(ctx, calmTime)
			if err != nil {
				return err
			}
			before, err := n.serving(d)
			if err != nil {
				return err
			}
			share, err := busyShare(ctx, 0, idleTime)
			if err != nil {
				return err
			}
			after, err := n.serving(d)
			if err != nil {
				return err
			}
			busy.add(d.name, share)
			own.add(d.name, 100*(after-before).Seconds()/idleTime.Seconds())
			kib, err := n.helperPSS(d)
			memory.add(d.name, float64(kib)/1024/sleepers)
			return err
		})
		for _, row := range []*Row{&memory, &busy, &own} {
			unforgiven := row.giveUp(ctx, d.name, d.foreign, err)
			if unforgiven != nil {
				return nil, unforgiven
			}
		}
	}
	return []Row{memory, busy, own}, nil
}

// withIdle does something while tasks stand idle.
func (n *site) withIdle(ctx context.Context, d driver, count int, do func() error) error {
	job := "idle-" + d.name
	err := n.submit(n.job(job, d, count, "sleep", "1000"))
	if err != nil {
		return err
	}
	_, err = n.running(ctx, job)
	if err == nil {
		err = do()
	}
	_, stopErr := n.stop(ctx, job)
	return errors.Join(err, stopErr, n.settle(ctx))
}

// helperPSS adds up the proportional set size, in KiB, of the driver's helper processes.
func (n *site) helperPSS(d driver) (int, error) {
	processes, err := n.processes()
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, p := range processes {
		if !d.helps(p.Args) {
			continue
		}
		kib, err := pss(filepath.Join("/proc", strconv.Itoa(p.PID)))
		if err != nil {
			return 0, err
		}
		sum += kib
	}
	return sum, nil
}

// serving is the processor time that the processes of a driver, and its tasks' helpers, have taken so far.
func (n *site) serving(d driver) (time.Duration, error) {
	processes, err := n.processes()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, p := range processes {
		if d.serves(p.Args) {
			took, err := onProcessor(p.PID)
			if err != nil {
				return 0, err
			}
			sum += took
		}
	}
	return sum, nil
}
