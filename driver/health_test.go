package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
	"pangaea/driver/supervisor"
)

func TestHealthOf(t *testing.T) {
	const s = time.Second
	image := &v1.HealthConfig{Test: []string{"CMD", "/bin/check", "-v"}, Interval: 10 * s, Retries: 5}
	cases := []struct {
		name  string
		job   JobHealth
		image *v1.HealthConfig
		shell []string
		want  *healthCheck
	}{
		{"none", JobHealth{}, nil, nil, nil},
		{"the image's, with Docker's defaults", JobHealth{}, image, nil, &healthCheck{Args: []string{"/bin/check", "-v"}, Interval: 10 * s, Timeout: 30 * s, Retries: 5}},
		{"by the shell", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD-SHELL", "a || b"}}, nil, &healthCheck{Args: []string{"/bin/sh", "-c", "a || b"}, Interval: 30 * s, Timeout: 30 * s, Retries: 3}},
		{"by the image's own shell", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD-SHELL", "a"}}, []string{"/bin/bash", "-ec"}, &healthCheck{Args: []string{"/bin/bash", "-ec", "a"}, Interval: 30 * s, Timeout: 30 * s, Retries: 3}},
		{"NONE", JobHealth{}, &v1.HealthConfig{Test: []string{"NONE"}}, nil, nil},
		{"disabled by the job", JobHealth{Disable: true}, image, nil, nil},
		{"none by the job", JobHealth{Test: []string{"NONE"}}, image, nil, nil},
		{"the job's", JobHealth{Test: []string{"CMD", "/own"}, Interval: "1m", Timeout: "5s", StartPeriod: "2m", Retries: 1}, image, nil, &healthCheck{Args: []string{"/own"}, Interval: 60 * s, Timeout: 5 * s, Start: 120 * s, Retries: 1}},
		{"the image's with the job's times", JobHealth{Interval: "1m"}, image, nil, &healthCheck{Args: []string{"/bin/check", "-v"}, Interval: 60 * s, Timeout: 30 * s, Retries: 5}},
		{"hostile times", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD", "x"}, Interval: 1, Timeout: 1 << 62, StartPeriod: 1 << 62, Retries: 1 << 40}, nil, &healthCheck{Args: []string{"x"}, Interval: 2 * s, Timeout: 600 * s, Start: 24 * 3600 * s, Retries: 100}},
		{"negative times", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD", "x"}, Interval: -1, Timeout: -1, StartPeriod: -1, Retries: -1}, nil, &healthCheck{Args: []string{"x"}, Interval: 30 * s, Timeout: 30 * s, Retries: 3}},
		{"nonsense of the image's", JobHealth{}, &v1.HealthConfig{Test: []string{"RUN", "x"}}, nil, nil},
		{"no program", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD"}}, nil, nil},
		{"shell with two commands", JobHealth{}, &v1.HealthConfig{Test: []string{"CMD-SHELL", "a", "b"}}, nil, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := healthOf(&c.job, c.image, c.shell)
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
	for text, job := range map[string]JobHealth{
		"CMD-SHELL":    {Test: []string{"/bin/check"}},
		"interval":     {Interval: "often"},
		"timeout":      {Timeout: "-1s"},
		"start_period": {StartPeriod: "0s"},
		"retries":      {Retries: -1},
	} {
		_, err := healthOf(&job, image, nil)
		must.ErrorContains(t, err, text)
	}
}

// TestWatcher has one row for each way that a check's answers become events. Each step takes as long as the pause.
func TestWatcher(t *testing.T) {
	type answer struct {
		code   int
		output string
		err    error
		hangs  bool
	}
	ok, bad, late := answer{}, answer{code: 3, output: "no\nluck\x1b[2J"}, answer{err: context.DeadlineExceeded}
	check := healthCheck{Interval: 20 * time.Second, Timeout: time.Minute, Retries: 2}
	with := func(change func(*healthCheck)) healthCheck { c := check; change(&c); return c }
	cases := []struct {
		name    string
		check   healthCheck
		answers []answer
		want    []string
	}{
		{"healthy once", check, []answer{ok, ok, ok}, []string{"healthy"}},
		{"one failure is none", check, []answer{ok, bad, ok, bad, ok}, []string{"healthy"}},
		{"unhealthy, once", check, []answer{bad, bad, bad}, []string{"unhealthy: exit 3: no luck[2J"}},
		{"there and back", check, []answer{ok, bad, bad, ok}, []string{"healthy", "unhealthy: exit 3: no luck[2J", "healthy"}},
		{"no answer in time", check, []answer{late, late}, []string{"unhealthy: context deadline exceeded"}},
		{"no answer at all", with(func(c *healthCheck) { c.Timeout = time.Millisecond }), []answer{{hangs: true}, {hangs: true}}, []string{"unhealthy: no answer in 1ms"}},
		{"no failure counts in the start period", with(func(c *healthCheck) { c.Start = time.Hour }), []answer{bad, bad, bad, ok, bad, bad}, []string{"healthy", "unhealthy: exit 3: no luck[2J"}},
		{"the start period ends", with(func(c *healthCheck) { c.Start = 12 * time.Second }), []answer{bad, bad, bad, bad}, []string{"unhealthy: exit 3: no luck[2J"}},
		{"flapping is told at a bearable pace", with(func(c *healthCheck) { c.Interval, c.Retries = 3*time.Second, 1 }), []answer{ok, bad, ok, bad, bad, bad, ok}, []string{"healthy", "unhealthy: exit 3: no luck[2J"}},
		{"a task that has not started or has ended", check, []answer{{err: supervisor.ErrNotRunning}, {err: supervisor.ErrNotRunning}}, nil},
		{"a check that can't run", check, []answer{{err: errors.New("cannot run")}, {err: errors.New("cannot run")}}, []string{"unhealthy: cannot run"}},
		{"silent failure", check, []answer{{code: 1}, {code: 1}}, []string{"unhealthy: exit 1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			var next answer
			var told []string
			w := &watcher{
				check: c.check, dir: t.TempDir(), began: now, now: func() time.Time { return now },
				run: func(ctx context.Context, _ []string) (int, string, error) {
					if next.hangs {
						<-ctx.Done()
						return 0, "", ctx.Err()
					}
					return next.code, next.output, next.err
				},
				tell: func(message string) { told = append(told, message) },
			}
			w.status.Store(healthStarting)
			for _, next = range c.answers {
				now = now.Add(w.pause())
				w.once(context.Background())
			}
			must.Eq(t, c.want, told)
			if len(told) > 0 {
				last, _, _ := strings.Cut(told[len(told)-1], ":")
				must.Eq(t, last, rememberedHealth(w.dir), must.Sprint("a restart of the plugin must know"))
			}
		})
	}
}

func TestLegible(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		" a\n\tb\r\n":                "a b",
		"\x1b]0;owned\x07\x00 x\xff": "]0;owned x",
		strings.Repeat("ä", 1000):    strings.Repeat("ä", maxHealthText) + "...",
	} {
		must.Eq(t, want, legible(text))
	}
}

// TestRootHealth has a task of an image with a check become healthy and, after a restart of the plugin, unhealthy.
func TestRootHealth(t *testing.T) {
	w := newWorld(t, nil)
	push(t, w.registry+"/health:1", v1.Config{
		Env: []string{"PATH=/bin"}, User: "alice",
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD-SHELL", "id -un; exec cat /local/state"}, Interval: 1, Timeout: time.Minute, Retries: 1},
	})
	job := sh("echo fine > /tmp/x; sleep 600")
	job.Image = w.registry + "/health:1"
	cfg, off := w.task(t, job), w.task(t, JobConfig{Image: job.Image, Command: "/bin/sleep", Args: []string{"600"}, Health: JobHealth{Disable: true}})
	file := cfg.TaskDir().LocalDir + "/state"
	must.NoError(t, os.WriteFile(file, []byte("fine"), 0o644))
	events := w.events(t)
	handle := w.start(t, cfg)
	w.start(t, off)
	must.Eq(t, "healthy", events.await(t, cfg.ID, "healthy"))

	w.restart(t)
	events = w.events(t)
	must.NoError(t, os.Remove(file))
	must.NoError(t, w.harness.RecoverTask(handle))
	must.StrContains(t, events.await(t, cfg.ID, "healthy"), "unhealthy: exit 1: alice cat: can't open '/local/state'")
	status, err := w.harness.InspectTask(cfg.ID)
	must.NoError(t, err)
	must.Eq(t, "unhealthy", status.DriverAttributes["health"])
	// The one whose job disabled the check has no check.
	h, ok := w.driver.task(cfg.ID)
	must.True(t, ok)
	must.NotNil(t, h.health)
	unwatched, err := readTaskFile(w.driver.settings().taskDir(sandboxID(off.ID)))
	must.NoError(t, err)
	must.Nil(t, unwatched.Health)
}

// TestRootEnds tells what an exit code alone does not.
func TestRootEnds(t *testing.T) {
	w := newWorld(t, nil)
	events := w.events(t)
	hungry := w.task(t, sh("exec dd if=/dev/zero of=/dev/null bs=200M count=1"))
	w.start(t, hungry)
	must.True(t, w.wait(t, hungry.ID).OOMKilled)
	events.await(t, hungry.ID, fmt.Sprintf("for want of memory: its limit is %d MiB", memoryMB()))

	job := sh("for i in $(seq 300); do sleep 600 & done 2>/dev/null")
	job.PidsLimit = byKernel[int64](20, 150)
	crowded := w.task(t, job)
	w.start(t, crowded)
	must.Eq(t, 2, w.wait(t, crowded.ID).ExitCode)
	events.await(t, crowded.ID, "raise pids_limit")

	broken := w.task(t, JobConfig{Command: "/local/broken", Lease: JobLease{File: "lease", TTL: "1h"}})
	must.NoError(t, os.WriteFile(filepath.Join(broken.TaskDir().LocalDir, "broken"), []byte("\x7fELFnot really"), 0o755))
	w.start(t, broken)
	must.NoError(t, os.WriteFile(filepath.Join(broken.TaskDir().Dir, "lease"), []byte("1"), 0o600))
	must.Eq(t, 126, w.wait(t, broken.ID).ExitCode)
	events.await(t, broken.ID, "never ran: "+byKernel("the kernel refused to execute the program", "the runtime failed: "))

	lost := w.task(t, sh("sleep 600"))
	handle := w.start(t, lost)
	h, ok := w.driver.task(lost.ID)
	must.True(t, ok)
	state, err := record.ReadState(h.dir)
	must.NoError(t, err)
	w.driver.Shutdown()
	for _, pid := range []int{state.ShimPid, state.Pid} {
		must.NoError(t, unix.Kill(pid, unix.SIGKILL))
	}
	// This process has seen the end by the task's pidfd, as a plugin that was killed too could not have.
	<-h.task.Done()
	must.NoError(t, os.Remove(filepath.Join(h.dir, record.ExitFile)))
	w.restart(t)
	events = w.events(t)
	must.NoError(t, w.harness.RecoverTask(handle))
	result := w.wait(t, lost.ID)
	must.ErrorContains(t, result.Err, "could not be learned")
	must.Eq(t, 1, result.ExitCode, must.Sprint("an unknown end is no success"))
	events.await(t, lost.ID, "its exit code is unknown")
}
