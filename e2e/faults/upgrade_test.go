//go:build faults

package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// An operator replaces the programs and restarts Nomad's client, while tasks run. The new plugin finds the old tasks, gets
// into them, gives them a new shim when theirs dies, and knows their exit codes.
func TestRootUpgrade(t *testing.T) {
	kept, adopted := newTask(t, "u1"), newTask(t, "u2")
	for _, w := range []*task{kept, adopted} {
		w.run()
		w.awaitStarted()
	}
	next := t.TempDir()
	const version = "-ldflags=-X main.version=upgraded"
	must.NoError(t, goBuild("1", filepath.Join(next, "pangaea"), "faults seccomp", "pangaea", version))
	must.NoError(t, goBuild("0", filepath.Join(next, "pangaea-shim"), "faults", "pangaea/driver/shim"))
	must.NoError(t, goBuild("1", filepath.Join(next, "pangaea-runtime"), "faults seccomp", "pangaea/driver/runtime", version))
	must.NoError(t, shared.Install(next))
	must.NoError(t, shared.StopClient())
	must.NoError(t, shared.StartClient(t.Context()))

	output, err := exec.Command(fmt.Sprintf("/proc/%d/exe", pluginPID(t)), "version").Output()
	must.NoError(t, err)
	must.Eq(t, "Pangaea upgraded\n", string(output))

	for _, w := range []*task{kept, adopted} {
		w.awaitLife(1)
		must.Len(t, 1, w.lives(), must.Sprint(w.story()))
		a, _, err := shared.API().Allocations().Info(w.alloc, nil)
		must.NoError(t, err)
		var stderr strings.Builder
		code, err := shared.Exec(t.Context(), a, w.name, false, strings.NewReader(""), new(strings.Builder), &stderr, "/usr/bin/witness")
		must.NoError(t, err)
		must.Eq(t, 2, code)
		must.StrContains(t, stderr.String(), "usage: witness")
	}
	old := adopted.shims()
	must.Len(t, 1, old)
	signalAll(adopted, old, syscall.SIGKILL)
	adopted.eventually("a new shim has it", func() bool {
		now := adopted.shims()
		return len(now) == 1 && now[0] != old[0] && state(now[0]) != ""
	})
	for i, w := range []*task{kept, adopted} {
		w.write("exit", fmt.Sprint(20+i))
		w.awaitExit(20 + i)
		w.logIsWhole(1)
		w.end()
	}
}

// pluginPID is the plugin's own process, not one that it forks and that has not become another program yet.
func pluginPID(t *testing.T) int {
	t.Helper()
	pids, err := shared.Plugin("pangaea-driver")
	must.NoError(t, err)
	own := slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 2 {
			return true // it has gone
		}
		parent, err := strconv.Atoi(fields[1])
		return err == nil && slices.Contains(pids, parent)
	})
	must.Len(t, 1, own)
	return own[0]
}

// The plugin holds descriptors of running tasks, and none of others, whatever they lost meanwhile.
func TestRootDescriptors(t *testing.T) {
	descriptors := func() []string {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pluginPID(t)))
		must.NoError(t, err)
		var files []string
		for _, e := range entries {
			file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pluginPID(t), e.Name()))
			// The image store keeps a user namespace, up to a number, for each range of IDs that it has met.
			if err == nil && !strings.HasPrefix(file, "user:") {
				files = append(files, file)
			}
		}
		slices.Sort(files)
		return files
	}
	few := func(name string) *task {
		w := newTask(t, name)
		w.run()
		w.awaitStarted()
		signalAll(w, w.shims(), syscall.SIGKILL)
		w.awaitLife(1)
		w.write("exit", "0")
		w.awaitExit(0)
		w.end()
		return w
	}
	few("f0") // what is opened once
	before := descriptors()
	var last *task
	for n := range 5 {
		last = few(fmt.Sprint("f", n+1))
	}
	var now []string
	defer func() {
		if t.Failed() {
			t.Logf("before:\n%s\nnow:\n%s", strings.Join(before, "\n"), strings.Join(now, "\n"))
		}
	}()
	last.eventually(fmt.Sprintf("the plugin has no more than %d descriptors", len(before)), func() bool {
		now = descriptors()
		return len(now) <= len(before)
	})
}
