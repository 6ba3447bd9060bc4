package gpu

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// gpuCommand is "pangaea gpu" as the node's owner runs it: with no token, and no other tool.
func gpuCommand(t *testing.T, verb string, args ...string) string {
	t.Helper()
	args = append([]string{"gpu", verb, "-control-dir", filepath.Join(shared.Dir, "device")}, args...)
	out, err := exec.Command(filepath.Join(shared.Dir, "bin", "pangaea"), args...).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	return string(out)
}

// awaitReason waits until the servers know why a GPU is not offered, or with "" that it is.
func awaitReason(t *testing.T, uuid, reason string) {
	t.Helper()
	awaitNode(t, func(n *api.Node) string {
		got := health(n)[uuid]
		if (got == "") == (reason == "") && strings.Contains(got, reason) {
			return ""
		}
		return fmt.Sprintf("GPU %s has the reason %q, wanted %q", uuid, got, reason)
	})
}

// The owner takes a GPU that has a task, from a shell: the command returns when it is his, and Nomad knows why. The task has
// the GPU from the moment that it was granted, with a process there or without.
func TestRootReclaim(t *testing.T) {
	for name, computes := range map[string]bool{"a task that computes": true, "a task that does not yet": false} {
		t.Run(name, func(t *testing.T) {
			job, err := shared.Run(t.Context(), asking(`"stay"`, "", `device "nvidia/gpu" {}`))
			must.NoError(t, err)
			a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
			must.NoError(t, err)
			uuid := granted(a)[0]
			setProcesses := func(p ...nvmlsim.Process) {
				play(t, func(all []*nvmlsim.GPU) { all[minor(t, uuid)].Processes = p })
			}
			t.Cleanup(func() { setProcesses() })
			if computes {
				pids, err := shared.Tasks(a.ID)
				must.NoError(t, err)
				must.SliceNotEmpty(t, pids)
				setProcesses(nvmlsim.Process{Kind: "compute", PID: pids[0], Bytes: 1 << 20})
			}
			task := fmt.Sprintf("default/ask/t (allocation %.8s)", a.ID)
			awaitStatus(t, uuid, task)

			out := gpuCommand(t, "reclaim", "-note", "a game", uuid)
			must.StrContains(t, out, "stopping "+task)
			must.StrContains(t, out, uuid+"  offered: no: reclaimed by its owner")
			left, err := shared.Tasks(a.ID)
			must.NoError(t, err)
			must.SliceEmpty(t, left)
			must.StrContains(t, gpuCommand(t, "status", uuid), "no: reclaimed by its owner")
			if computes {
				awaitReason(t, uuid, ": a game")
			}

			gpuCommand(t, "release", uuid)
			if computes {
				awaitReason(t, uuid, "")
			}
			must.NoError(t, shared.Stop(t.Context(), job))
		})
	}
}

// awaitStatus waits until the plugin's status tells of something on a GPU.
func awaitStatus(t *testing.T, uuid, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out := gpuCommand(t, "status", uuid)
		if strings.Contains(out, text) {
			return
		}
		must.True(t, time.Now().Before(deadline), must.Sprint(out))
	}
}
