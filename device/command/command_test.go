package command

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/device/control"
)

// plugin stands in for the device plugin: it heeds reclaims and publishes, and ends tasks on its GPUs when it likes.
type plugin struct {
	t         *testing.T
	dir       control.Dir
	publisher *control.Publisher

	mu   sync.Mutex
	gpus []control.GPU
}

const (
	first  = "GPU-11111111-aaaa-bbbb-cccc-000000000001"
	second = "GPU-22222222-aaaa-bbbb-cccc-000000000002"
)

func newPlugin(t *testing.T) *plugin {
	p := &plugin{t: t, dir: control.Dir(t.TempDir() + "/device"), gpus: []control.GPU{
		{UUID: first, Model: "NVIDIA L4", BusID: "0000:1b:00.0", Index: 0, Healthy: true},
		{UUID: second, Model: "NVIDIA L4", BusID: "0000:2b:00.0", Index: 1, Healthy: true, Tasks: []control.Task{
			{AllocID: "0c5a4b9e-1111-2222-3333-444444444444", Task: "train", JobID: "model", Namespace: "pool-a\x1b[2J"},
		}},
	}}
	var err error
	p.publisher, err = p.dir.Publisher()
	must.NoError(t, err)
	t.Cleanup(func() { _ = p.publisher.Close() })
	p.publish(time.Now())
	return p
}

// publish is one round of the plugin's.
func (p *plugin) publish(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reclaims, err := p.dir.Reclaims()
	must.NoError(p.t, err)
	for i := range p.gpus {
		g := &p.gpus[i]
		g.Reclaim, g.Healthy, g.Reason = nil, true, ""
		for _, name := range []string{control.All, g.UUID} {
			r, ok := reclaims[name]
			if ok {
				g.Reclaim, g.Healthy, g.Reason = &r, false, r.Reason()
			}
		}
	}
	must.NoError(p.t, p.publisher.Publish(control.Status{At: at, GPUs: p.gpus}))
}

// change is something that happens on the machine.
func (p *plugin) change(f func(gpus []control.GPU)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p.gpus)
}

// live publishes round after round until the test ends, and lets then happen when a GPU was first reclaimed.
func (p *plugin) live(then func(gpus []control.GPU)) {
	ended, done := make(chan struct{}), make(chan struct{})
	p.t.Cleanup(func() {
		close(ended)
		<-done
	})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
			p.publish(time.Now())
			p.change(func(gpus []control.GPU) {
				if then != nil && gpus[1].Reclaim != nil {
					then(gpus)
				}
			})
		}
	}()
}

// run is the command with its output.
func (p *plugin) run(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	args = append([]string{args[0], "-control-dir", string(p.dir)}, args[1:]...)
	code = Run(args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestStatus(t *testing.T) {
	p := newPlugin(t)
	p.change(func(gpus []control.GPU) {
		gpus[0].OwnerProcesses = []control.Process{{PID: 7, Name: "game"}}
		gpus[0].Index = -1
	})
	p.publish(time.Now())
	code, out, errs := p.run("status")
	must.Eq(t, 0, code, must.Sprint(errs))
	must.Eq(t, strings.Join([]string{
		"GPU  UUID                                      MODEL      OFFERED  USED BY",
		"-    " + first + "  NVIDIA L4  yes      owner's game (7)",
		"1    " + second + "  NVIDIA L4  yes      task pool-a?[2J/model/train (allocation 0c5a4b9e)", "",
	}, "\n"), out)
	code, out, _ = p.run("status", "-json", "GPU-2222")
	must.Eq(t, 0, code)
	var s control.Status
	must.NoError(t, json.Unmarshal([]byte(out), &s))
	must.Len(t, 1, s.GPUs)
	must.Eq(t, second, s.GPUs[0].UUID)
}

func TestFind(t *testing.T) {
	p := newPlugin(t)
	for name, want := range map[string]string{
		first: "1 GPU", "GPU-1111": "1 GPU", "2222": "1 GPU", "0000:1B:00.0": "1 GPU", "1": "1 GPU", "all": "2 GPU",
		"GPU-": "cannot tell which GPU", "7": `cannot find a GPU "7"`, "../x": "cannot find a GPU", "22": "cannot find a GPU",
	} {
		code, out, errs := p.run("status", "-json", name)
		if strings.HasPrefix(want, "cannot") {
			must.Eq(t, 1, code, must.Sprint(name))
			must.StrContains(t, errs, want)
			continue
		}
		must.Eq(t, 0, code, must.Sprint(name, errs))
		must.Eq(t, want, strings.Join([]string{string(rune('0' + strings.Count(out, `"uuid"`))), "GPU"}, " "), must.Sprint(name))
	}
}

func TestReclaimAndRelease(t *testing.T) {
	p := newPlugin(t)
	p.live(func(gpus []control.GPU) { gpus[1].Tasks = nil })
	code, out, errs := p.run("reclaim", "-note", "a game", "1")
	must.Eq(t, 0, code, must.Sprint(errs))
	must.StrContains(t, out, second+"  offered: no: reclaimed by its owner (")
	must.StrContains(t, out, "a game")
	must.StrNotContains(t, out, first)
	code, out, _ = p.run("status", "1")
	must.Eq(t, 0, code)
	must.StrContains(t, out, "no: reclaimed by its owner")

	code, out, errs = p.run("release", "1")
	must.Eq(t, 0, code, must.Sprint(errs))
	must.StrContains(t, out, second+"  offered: yes")
	code, _, _ = p.run("release")
	must.Eq(t, 0, code, must.Sprint("to release what is not reclaimed is no mistake"))
}

func TestReclaimAll(t *testing.T) {
	p := newPlugin(t)
	p.live(func(gpus []control.GPU) { gpus[1].Tasks = nil })
	code, out, errs := p.run("reclaim", "-json")
	must.Eq(t, 0, code, must.Sprint(errs))
	var s control.Status
	must.NoError(t, json.Unmarshal([]byte(out), &s))
	must.Len(t, 2, s.GPUs)
	for _, g := range s.GPUs {
		must.False(t, g.Healthy)
		must.NotNil(t, g.Reclaim)
	}
	code, _, errs = p.run("release", "0")
	must.Eq(t, 1, code)
	must.StrContains(t, errs, "all GPUs are reclaimed")
	code, _, _ = p.run("release")
	must.Eq(t, 0, code)
}

func TestReclaimKeepsTasks(t *testing.T) {
	p := newPlugin(t)
	p.live(nil)
	code, _, errs := p.run("reclaim", "-keep", "1")
	must.Eq(t, 0, code, must.Sprint(errs))
	all, err := p.dir.Reclaims()
	must.NoError(t, err)
	must.True(t, all[second].Keep)
}

// What keeps a GPU from being freed is said, and the reclaim stays in force.
func TestReclaimThatFails(t *testing.T) {
	for _, c := range []struct {
		name      string
		problem   string
		at        time.Duration
		out, errs string
	}{
		{"the task does not end", "", 0, "stopping pool-a?[2J/model/train (allocation 0c5a4b9e)", "1 GPUs are not free yet after TIMEOUT; what was asked stays in force"},
		{"Nomad refuses", "the token needs alloc-lifecycle", 0, "its tasks cannot be stopped: the token needs alloc-lifecycle", "not free yet after TIMEOUT"},
		{"Nomad has not answered", "asking", 0, "asking Nomad which tasks have it", "not free yet after TIMEOUT"},
		{"no plugin", "", -time.Hour, "", "reclaimed, but the device plugin does not run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlugin(t)
			p.change(func(gpus []control.GPU) {
				gpus[1].Problem = c.problem
				if c.problem == "asking" {
					gpus[1].Problem, gpus[1].Asking, gpus[1].Tasks = "", true, nil
				}
			})
			if c.at == 0 {
				p.live(nil)
			} else {
				p.publish(time.Now().Add(c.at))
			}
			var code int
			var out, errs string
			for timeout := time.Second; timeout < time.Hour; timeout *= 4 {
				code, out, errs = p.run("reclaim", "-timeout", timeout.String(), "1")
				must.Eq(t, 1, code)
				must.StrContains(t, errs, strings.ReplaceAll(c.errs, "TIMEOUT", timeout.String()))
				if strings.Contains(out, c.out) {
					break // else it was not even heard of
				}
			}
			must.StrContains(t, out, c.out)
			all, err := p.dir.Reclaims()
			must.NoError(t, err)
			must.MapContainsKey(t, all, second)
		})
	}
}

// A machine whose Nomad does not answer the plugin can be reclaimed while nothing is known to have its GPUs.
func TestReclaimWithoutNomad(t *testing.T) {
	p := newPlugin(t)
	p.change(func(gpus []control.GPU) { gpus[0].Problem = "the token needs agent:read" })
	p.live(nil)
	code, out, errs := p.run("reclaim", "0")
	must.Eq(t, 0, code, must.Sprint(errs))
	must.StrContains(t, out, "a task that is about to start on it would not be known: the token needs agent:read")
}

func TestNoPlugin(t *testing.T) {
	p := &plugin{t: t, dir: control.Dir(t.TempDir() + "/device")}
	code, out, errs := p.run("status", "-json")
	must.Eq(t, 1, code)
	must.Eq(t, "", out, must.Sprint("who reads it must not take this for a machine without GPUs"))
	must.StrContains(t, errs, "the device plugin does not run")
	code, _, errs = p.run("reclaim")
	must.Eq(t, 1, code)
	must.StrContains(t, errs, "reclaimed, but the device plugin does not run")
	all, err := p.dir.Reclaims()
	must.NoError(t, err)
	must.MapContainsKey(t, all, control.All)
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{nil, 2, "", "Usage: pangaea gpu"},
		{[]string{"-h"}, 0, "Usage: pangaea gpu", ""},
		{[]string{"release", "-h"}, 0, "Usage: pangaea gpu", ""},
		{[]string{"steal"}, 2, "", `no command "steal"`},
		{[]string{"status", "-keep"}, 2, "", "-keep"},
		{[]string{"reclaim", "-timeout", "soon"}, 2, "", `"soon" for flag -timeout`},
	} {
		var out, errs bytes.Buffer
		must.Eq(t, c.code, Run(c.args, &out, &errs), must.Sprint(c.args))
		must.StrContains(t, out.String(), c.out)
		must.StrContains(t, errs.String(), c.err)
		must.Eq(t, c.code == 0, errs.Len() == 0)
	}
}
