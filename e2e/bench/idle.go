package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pangaea/e2e/node"
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
	fmt.Fprintf(n.out, "==> %d idle tasks\n", sleepers)
	none, err := busyShare(ctx)
	if err != nil {
		return nil, err
	}
	busy.Note = "with no task: " + number(none) + " %; Nomad's logmon takes part of it, whatever the driver"
	for _, d := range drivers {
		err = n.withIdle(ctx, d, sleepers, func() error {
			share, err := busyShare(ctx)
			if err != nil {
				return err
			}
			busy.add(d.name, share)
			kib, err := n.helperPSS(d)
			memory.add(d.name, float64(kib)/1024/sleepers)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return []Row{memory, busy}, nil
}

// withIdle does something while tasks stand idle.
func (n *site) withIdle(ctx context.Context, d driver, count int, do func() error) error {
	job := "idle-" + d.name
	err := n.submit(n.job(job, d, count, "sleep", "1000"))
	if err != nil {
		return err
	}
	_, err = n.running(ctx, job)
	if err != nil {
		return err
	}
	err = do()
	if err != nil {
		return err
	}
	_, err = n.stop(ctx, job)
	if err != nil {
		return err
	}
	return n.settle(ctx)
}

// busyShare is how much of one processor the machine uses, in percent.
func busyShare(ctx context.Context) (float64, error) {
	err := pause(ctx, calmTime)
	if err != nil {
		return 0, err
	}
	before, err := busyTicks()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = pause(ctx, idleTime)
	if err != nil {
		return 0, err
	}
	after, err := busyTicks()
	// A tick is a hundredth of a second, whatever the kernel was built with.
	return float64(after-before) / time.Since(began).Seconds(), err
}

// busyTicks adds up the ticks that the machine's processors have worked.
func busyTicks() (int, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("cannot read the machine's processor time: %w", err)
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	sum := 0
	for i, field := range strings.Fields(line) {
		// cpu user nice system idle iowait irq softirq; the rest is others' machines' or counted already.
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("cannot read the machine's processor time: %w", err)
		}
		sum += ticks
	}
	return sum, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
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

// naming lists the processes with a text in their command line.
func naming(text string) ([]node.Process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var found []node.Process
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(line), text) {
			continue
		}
		pid, err := strconv.Atoi(base(filepath.Dir(file)))
		if err != nil {
			return nil, fmt.Errorf("cannot list processes: %w", err)
		}
		found = append(found, node.Process{PID: pid, Args: strings.Split(string(line), "\x00")})
	}
	return found, nil
}

func pss(dir string) (int, error) {
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return 0, fmt.Errorf("cannot read a helper's memory: %w", err)
	}
	for line := range strings.Lines(string(rollup)) {
		rest, ok := strings.CutPrefix(line, "Pss:")
		if ok {
			return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
		}
	}
	return 0, fmt.Errorf("cannot find a helper's memory in %s", dir)
}
