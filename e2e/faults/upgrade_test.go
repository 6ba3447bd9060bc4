//go:build faults

package faults

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// An operator replaces the programs and restarts Nomad's client, while tasks run. The new plugin finds the old tasks, gets
// into them, gives them a new shim when theirs dies, and knows their exit codes.
func TestRootUpgrade(t *testing.T) {
	kept, adopted := newTask(t, "u1", usual), newTask(t, "u2", usual)
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

	output, err := exec.Command(fmt.Sprintf("/proc/%d/exe", pluginPID(t, "pangaea-driver")), "version").Output()
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
