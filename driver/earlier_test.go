package driver

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// A start waits for an earlier one of the same task, which a client that was killed has forgotten, and takes nothing from
// starts of other tasks.
func TestBeginNotesEarlierStarts(t *testing.T) {
	d := New(hclog.NewNullLogger())
	t.Cleanup(d.Shutdown)
	d.conf = newSettings(Config{StateDir: t.TempDir()})
	config := func(id, alloc, name string) *drivers.TaskConfig {
		return &drivers.TaskConfig{ID: id, AllocID: alloc, Name: name}
	}
	first, firstDone, err := d.begin(config("a/web/1", "a", "web"))
	must.NoError(t, err)
	must.SliceEmpty(t, first.earlier)
	_, otherDone, err := d.begin(config("a/db/1", "a", "db"))
	must.NoError(t, err)
	defer otherDone()
	second, secondDone, err := d.begin(config("a/web/2", "a", "web"))
	must.NoError(t, err)
	must.Len(t, 1, second.earlier)

	ended := make(chan error, 1)
	go func() { ended <- second.endEarlier() }()
	<-first.ctx.Done()
	select {
	case err := <-ended:
		t.Fatal("the second start did not wait for the first to be undone: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	firstDone()
	must.NoError(t, <-ended)

	_, thirdDone, err := d.begin(config("a/web/3", "a", "web"))
	must.NoError(t, err)
	secondDone()
	defer thirdDone()
	_, _, err = d.begin(config("a/web/3", "a", "web"))
	must.ErrorContains(t, err, "already started")
}

// A client that was killed starts a task anew, under another ID, that its plugin has started already.
func TestRootNeverTwoInOnePlugin(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.task(t, sh("sleep 600"))
	_, _, err := w.harness.StartTask(cfg)
	must.NoError(t, err)
	first, ok := w.driver.task(cfg.ID)
	must.True(t, ok)
	again := cfg.Copy()
	again.ID = cfg.AllocID + "/web/ffffffff"
	w.start(t, again)
	_, ok = w.driver.task(cfg.ID)
	must.False(t, ok)
	must.False(t, first.running())
	_, err = os.Stat(first.dir)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// Nomad repeats a start under the same ID when the plugin died in it. What is there may be half-made.
func TestRootStartAgain(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct {
		name string
		left func(cfg *drivers.TaskConfig)
	}{
		{"it had succeeded", func(cfg *drivers.TaskConfig) { w.start(t, cfg) }},
		{"it had made no record yet", func(cfg *drivers.TaskConfig) {
			must.NoError(t, os.MkdirAll(w.driver.settings().taskDir(sandboxID(cfg.ID)), 0o700))
		}},
		{"it had launched nothing yet", func(cfg *drivers.TaskConfig) {
			dir := w.driver.settings().taskDir(sandboxID(cfg.ID))
			must.NoError(t, makeTaskDir(dir, new(outlines).Take, func() error {
				return writeTaskFile(dir, taskFile{TaskID: cfg.ID, AllocID: cfg.AllocID, Task: cfg.Name})
			}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.task(t, sh("sleep 600"))
			c.left(cfg)
			w.restart(w.t)
			w.start(t, cfg)
			status, err := w.harness.InspectTask(cfg.ID)
			must.NoError(t, err)
			must.Eq(t, drivers.TaskStateRunning, status.State)
			must.NoError(t, w.driver.DestroyTask(cfg.ID, true))
		})
	}
}

// A process that is killed in the middle of a start costs the task this start, not its life.
func TestRootKilledInStart(t *testing.T) {
	for name, victim := range map[string]string{"the runtime": "$$", "the shim": "$PPID"} {
		t.Run(name, func(t *testing.T) {
			script := t.TempDir() + "/runtime"
			// The driver itself asks another runtime than its own for its version, and has it remove what it left.
			text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in\n--version) echo %s version 99.0.0-20991231.0;;\n*' delete '*) ;;\n*) kill -9 %s; exec sleep 600;;\nesac\n",
				os.Getenv(runtimeEnv), victim)
			must.NoError(t, os.WriteFile(script, []byte(text), 0o755))
			w := newWorld(t, func(c *Config) {
				c.RuntimePath = script
				for name, r := range c.Runtimes {
					r.Path = script
					c.Runtimes[name] = r
				}
			})
			cfg := w.prepare(t, sh("true"), false)
			_, _, err := w.harness.StartTask(cfg)
			must.ErrorContains(t, err, "interrupted")
			must.True(t, structs.IsRecoverable(err))
			_, err = w.driver.WaitTask(context.Background(), cfg.ID)
			must.ErrorIs(t, err, drivers.ErrTaskNotFound)
		})
	}
}
