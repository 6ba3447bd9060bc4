package escape

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/registry"
)

const job = `
job "NAME" {
  type = "batch"
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "t" {
      driver = "runc"
      user   = "USER"
      config {
        image = "IMAGES/IMAGE:1"
        args  = ARGS
        CONFIG
      }
      resources {
        cpu    = 50
        memory = MEMORY
      }
    }
  }
}
`

// outcome is what the program tells of an attempt.
type outcome struct {
	Group, Name string
	Reached     bool
	Detail      string
}

func (o outcome) key() string { return o.Group + ": " + o.Name }

// outcomes reads what the program has printed.
func outcomes(t *testing.T, text string) []outcome {
	t.Helper()
	var all []outcome
	for line := range strings.Lines(text) {
		var o outcome
		must.NoError(t, json.Unmarshal([]byte(line), &o), must.Sprint(text))
		if o.Name != "" {
			all = append(all, o)
		}
	}
	return all
}

// start runs the program as a task.
func start(t *testing.T, name, image, user, config string, memory int, args ...string) {
	t.Helper()
	list, err := json.Marshal(args)
	must.NoError(t, err)
	_, err = shared.Run(t.Context(), strings.NewReplacer("NAME", name, "IMAGES", "IMAGES", "IMAGE", image, "USER", user, "ARGS", string(list),
		"CONFIG", config, "MEMORY", fmt.Sprint(memory)).Replace(job))
	must.NoError(t, err)
}

// ended waits for the end of a task, and is what it has printed.
func ended(t *testing.T, name string) string {
	t.Helper()
	a, event, err := shared.AwaitEvent(t.Context(), name, api.TaskTerminated, nil)
	must.NoError(t, err)
	said := shared.Logs(a.ID, "t", "stderr")
	must.Zero(t, event.ExitCode, must.Sprint(said))
	if said != "" {
		t.Log(said)
	}
	text, err := shared.AwaitLog(t.Context(), a.ID, "t", `"over"`) // which comes some time after the end
	must.NoError(t, err)
	return text
}

func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(shared.Dir, "escape")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "pangaea/e2e/images/escape")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	image, err := registry.FromBinary(program)
	must.NoError(t, err)
	_, err = shared.Registry.Push(t.Context(), "escape:1", image)
	must.NoError(t, err)
	return program
}

// side is where the program ran, and what it told.
type side struct {
	name string
	list []outcome
}

func (s side) reached(group string) []string {
	var names []string
	for _, o := range s.list {
		if o.Reached && (group == "" || o.Group == group) {
			names = append(names, o.key())
		}
	}
	return names
}

func (s side) count(group string) int {
	count := 0
	for _, o := range s.list {
		if group == "" || o.Group == group {
			count++
		}
	}
	return count
}

// TestRootNothingIsReached runs all attempts in a task as root, in one as another user, by exec in the first, under gVisor,
// and where nothing is in their way.
func TestRootNothingIsReached(t *testing.T) {
	program := build(t)
	o := newOutside(t)
	config := fmt.Sprintf("pids_limit = %d\ndisk_limit = \"%dMiB\"\nshm_size = \"%dMiB\"", pids, space, space)
	start(t, "root", "escape", "", config, memory, o.told(t, "Watch", true, "Groups", withoutAlone()))
	start(t, "user", "escape", "1000", config, memory, o.told(t, "Groups", withoutAlone()))
	for _, g := range alone() {
		start(t, g, "escape", "", config, memory, o.told(t, "Groups", []string{g}))
	}
	start(t, "gvisor", "escape", "", `runtime = "runsc"`, 2*memory, o.told(t, "Groups", withoutWaiting()))
	control := side{"control", o.control(t, program)}

	joined := o.join(t)
	ours := []side{{"as root", outcomes(t, ended(t, "root"))}, {"as a user", outcomes(t, ended(t, "user"))}, {"by exec", joined}}
	gvisor := side{"under gVisor", outcomes(t, ended(t, "gvisor"))}
	t.Log("\n" + table(control, ours[0], ours[1], ours[2], gvisor))

	for _, s := range ours {
		for _, o := range s.list {
			if o.Reached {
				t.Errorf("%s it reached %s", s.name, o.key())
			}
			// What breaks was not refused.
			broke := strings.HasPrefix(o.Detail, "exit status") || strings.HasPrefix(o.Detail, "signal: killed")
			must.False(t, broke, must.Sprint(s.name, ": ", o))
		}
		for _, o := range control.list {
			must.True(t, slices.Contains(alone(), o.Group) || slices.ContainsFunc(s.list, func(own outcome) bool { return own.key() == o.key() }), must.Sprint(s.name, " lacks ", o.key()))
		}
	}
	for _, g := range alone() {
		must.Len(t, 1, control.reached(g))
		cutShort(t, g)
	}
	waited := ours[0].list[len(ours[0].list)-1]
	must.Eq(t, "watching", waited.Group)
	must.NotEq(t, "refused times: 0", waited.Detail, must.Sprint("no runtime was seen"))
	for _, key := range gvisor.reached("") {
		t.Log("under gVisor it reached", key+":", gvisors()[key])
		must.MapContainsKey(t, gvisors(), key)
	}
	// Each kernel lacks a few things that one could try to reach.
	must.Greater(t, 100, len(control.reached("")))
	for _, g := range groups(control.list) {
		must.Greater(t, control.count(g)/2, len(control.reached(g)), must.Sprint(g))
	}
}

// alone are groups of one attempt that has a task of its own, which may end with it.
func alone() []string { return []string{"threads", "memory"} }

// cutShort sees that a task, or its process that took too much, was ended for that.
func cutShort(t *testing.T, name string) {
	t.Helper()
	a, event, err := shared.AwaitEvent(t.Context(), name, api.TaskTerminated, nil)
	must.NoError(t, err)
	if event.ExitCode == 0 {
		text, err := shared.AwaitLog(t.Context(), a.ID, "t", `"over"`)
		must.NoError(t, err)
		list := outcomes(t, text)
		must.Len(t, 1, list)
		must.False(t, list[0].Reached)
		must.StrHasPrefix(t, map[string]string{"threads": "exit status 2", "memory": "signal: killed"}[name], list[0].Detail)
		return
	}
	// By Go for want of a thread, or by the kernel for want of memory.
	must.Eq(t, map[string]int{"threads": 2, "memory": 137}[name], event.ExitCode)
	must.Eq(t, fmt.Sprint(name == "memory"), event.Details["oom_killed"])
}

// withoutAlone are all groups but those that have tasks of their own.
func withoutAlone() []string { return append(withoutWaiting(), "neighbours", "limits") }

// withoutWaiting are all groups but those that wait for what does not answer, or take what gVisor itself lives on.
func withoutWaiting() []string {
	return []string{"mounts", "namespaces", "privileges", "kernel files", "devices", "system calls", "processes", "network"}
}

// gvisors are attempts that reach something under gVisor, and what that is instead of the host's.
func gvisors() map[string]string {
	own := "a setting of gVisor's own kernel, which the host's does not see"
	return map[string]string{
		"privileges: be the host's root":                          "the root of gVisor's own kernel, who is not the host's",
		"kernel files: write /proc/sys/kernel/randomize_va_space": own,
		"kernel files: write /proc/sysrq-trigger":                 own,
		"kernel files: write anything below /proc":                own,
		"kernel files: write anything below /proc/sys":            own,
		"devices: open a node in /dev":                            "/dev/fuse of its own, for mounts in its own kernel, which it refuses",
		"network: go before others":                               "an option of its own network stack",
		"network: speak for others":                               "an option of its own network stack",
	}
}

// join runs the program in the task that runs it already and waits for runtimes that join it.
func (o *outside) join(t *testing.T) []outcome {
	t.Helper()
	a, err := shared.AwaitStatus(t.Context(), "root", api.AllocClientStatusRunning)
	must.NoError(t, err)
	_, err = shared.AwaitLog(t.Context(), a.ID, "t", `"watching"`)
	must.NoError(t, err)
	run := func(args ...string) string {
		var stdout, stderr strings.Builder
		code, err := shared.Exec(t.Context(), a, "t", false, strings.NewReader(""), &stdout, &stderr, append([]string{"/usr/bin/escape"}, args...)...)
		must.NoError(t, err)
		must.Zero(t, code, must.Sprint(stderr.String()))
		return stdout.String()
	}
	for range 3 {
		must.Eq(t, "0\n", run())
	}
	list := outcomes(t, run(o.told(t, "Groups", withoutAlone())))
	must.Eq(t, "looked\n", run(`{"Look": "/tmp"}`)) // which ends the waiting
	return list
}

// groups are those of attempts, in order.
func groups(list []outcome) []string {
	var names []string
	for _, o := range list {
		names = append(names, o.Group)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// table counts what was reached, by groups.
func table(sides ...side) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "reached, of attempts")
	for _, s := range sides {
		fmt.Fprint(w, "\t", s.name)
	}
	for _, g := range append(groups(sides[1].list), "") {
		fmt.Fprint(w, "\n", cmp.Or(g, "all"))
		for _, s := range sides {
			fmt.Fprintf(w, "\t%d of %d", len(s.reached(g)), s.count(g))
		}
	}
	_ = w.Flush()
	return text.String()
}
