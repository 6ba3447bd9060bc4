package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"pangaea/driver/supervisor"
)

// What a task's health can be.
const (
	healthStarting  = "starting"
	healthHealthy   = "healthy"
	healthUnhealthy = "unhealthy"
)

const (
	// healthPause is the least time between two events: each is written to the disks of Nomad's servers, and a task's
	// last ten are kept.
	healthPause = 10 * time.Second
	// maxHealthOutput is kept in memory of what a check says, maxHealthText of it goes into an event.
	maxHealthOutput = 4096
	maxHealthText   = 240
	healthFile      = "health"
)

// watcher looks at one task's health.
type watcher struct {
	check healthCheck
	dir   string // where the last health told is kept
	run   func(ctx context.Context, args []string) (code int, output string, err error)
	tell  func(message string)
	now   func() time.Time

	status   atomic.Value // string
	began    time.Time
	told     time.Time
	failures int
}

// newWatcher is nil for a task without a check. Nothing else knows the task yet.
func (d *Driver) newWatcher(h *handle) *watcher {
	if h.file.Health == nil {
		return nil
	}
	w := &watcher{
		check: *h.file.Health, dir: h.dir, now: time.Now, began: h.task.StartedAt(),
		run:  func(ctx context.Context, args []string) (int, string, error) { return runCheck(ctx, h.task, args) },
		tell: func(message string) { d.event(h.config, message, nil) },
	}
	w.status.Store(rememberedHealth(h.dir))
	return w
}

// watchHealth looks at a task's health until it or the plugin ends, if it has a check.
func (d *Driver) watchHealth(h *handle) {
	if h.health != nil {
		_ = d.spawn(func() { h.health.watch(d.ctx, h.task.Done()) })
	}
}

// rememberedHealth is what was last told: a restart of the plugin is no news of the task.
func rememberedHealth(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, healthFile))
	if err == nil && (string(text) == healthHealthy || string(text) == healthUnhealthy) {
		return string(text)
	}
	return healthStarting
}

// watch checks again and again, each time some time after the last check has ended, until the task or the plugin does.
func (w *watcher) watch(ctx context.Context, done <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(w.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-timer.C:
		}
		checked := make(chan struct{})
		go func() {
			defer close(checked)
			w.once(ctx)
		}()
		select {
		case <-checked:
		case <-done:
			cancel()
			<-checked
			return
		}
		timer.Reset(w.pause())
	}
}

// inStart tells whether failures do not count yet.
func (w *watcher) inStart() bool {
	return w.status.Load() == healthStarting && w.now().Sub(w.began) < w.check.Start
}

func (w *watcher) pause() time.Duration {
	if w.inStart() {
		return min(w.check.Interval, healthStartInterval)
	}
	return w.check.Interval
}

// once runs the check and draws the conclusion.
func (w *watcher) once(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, w.check.Timeout)
	defer cancel()
	code, output, err := w.run(limited, w.check.Args)
	switch {
	case ctx.Err() != nil || errors.Is(err, supervisor.ErrNotRunning):
		return // The task or the plugin ends, or a lease still holds the task: that says nothing.
	case err == nil && code == 0:
		w.failures = 0
		w.become(healthHealthy, healthHealthy)
		return
	case w.inStart():
		return
	}
	w.failures++
	if w.failures >= w.check.Retries {
		w.become(healthUnhealthy, healthUnhealthy+": "+w.reason(limited, code, output, err))
	}
}

func (w *watcher) reason(ctx context.Context, code int, output string, err error) string {
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("no answer in %s", w.check.Timeout)
	case err != nil:
		return legible(err.Error())
	}
	return strings.TrimSuffix(fmt.Sprintf("exit %d: %s", code, legible(output)), ": ")
}

// become tells of a change, if that was not just told of another one; the next check finds it still true or not.
func (w *watcher) become(status, message string) {
	if w.status.Load() == status || (!w.told.IsZero() && w.now().Sub(w.told) < healthPause) {
		return
	}
	w.status.Store(status)
	w.told = w.now()
	w.tell(message)
	// Best effort: without it, a restart of the plugin tells once more.
	_ = os.WriteFile(filepath.Join(w.dir, healthFile), []byte(status), 0o600)
}

// runCheck runs a check in the task's sandbox, as the task's own user.
func runCheck(ctx context.Context, task *supervisor.Task, args []string) (int, string, error) {
	stdout, stderr := &bounded{limit: maxHealthOutput}, &bounded{limit: maxHealthOutput}
	code, err := task.Exec(ctx, supervisor.ExecRequest{Args: args, Stdout: stdout, Stderr: stderr})
	return code, stdout.String() + "\n" + stderr.String(), err
}

// legible makes a stranger's output fit for an event: one line, no control characters, an end.
func legible(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxHealthText {
		return string(runes[:maxHealthText]) + "..."
	}
	return text
}
