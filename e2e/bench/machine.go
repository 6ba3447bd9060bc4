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

// State is how busy the machine was just before a measure: figures from a busy one say little.
type State struct {
	Load float64 `json:"load"` // average of the last minute
	Busy float64 `json:"busy"` // of one processor, in percent, for a second
}

func (s State) String() string {
	return fmt.Sprintf("load %.1f, %.0f %% of a core busy before", s.Load, s.Busy)
}

// calm waits, but not for long, until the machine does little, and says how much.
func calm(ctx context.Context) (State, error) {
	const little, tries = 15, 5
	var s State
	for range tries {
		var err error
		s.Busy, err = busyShare(ctx, 0, time.Second)
		if err != nil {
			return s, err
		}
		if s.Busy < little {
			break
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(load), &s.Load)
	}
	if err != nil {
		return s, fmt.Errorf("cannot read the machine's load: %w", err)
	}
	return s, nil
}

// busyShare is how much of one processor the machine uses, in percent, while it is watched after a rest.
func busyShare(ctx context.Context, rest, watch time.Duration) (float64, error) {
	err := pause(ctx, rest)
	if err != nil {
		return 0, err
	}
	before, err := busyTicks()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = pause(ctx, watch)
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

// onProcessor is how long a process's threads have run so far.
func onProcessor(pid int) (time.Duration, error) {
	// The ticks of /proc/PID/stat are too coarse for what hardly ever runs.
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read a process's time: %w", err)
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var nanoseconds int64
		_, err = fmt.Sscan(string(text), &nanoseconds)
		if err != nil {
			return 0, fmt.Errorf("cannot read a process's time: %w", err)
		}
		sum += time.Duration(nanoseconds)
	}
	return sum, nil
}
