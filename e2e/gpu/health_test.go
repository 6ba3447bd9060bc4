package gpu

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/node"
	"pangaea/e2e/nvmlsim"
)

// fill wants every GPU of the node, one for each of its tasks, which do not end when asked.
const fill = `
job "fill" {
  type = "service"
  update { max_parallel = 0 }
  group "g" {
    count = 8
    restart {
      attempts = 0
      mode     = "fail"
    }
    # A task may be sent to a GPU that its owner has just taken, before Nomad's servers know.
    reschedule {
      delay          = "5s"
      delay_function = "constant"
      unlimited      = true
    }
    task "t" {
      driver       = "runc"
      kill_timeout = "15s"
      config {
        image = "IMAGES/hello-gpu:1"
        args  = ["stay"]
      }
      resources {
        cpu    = 20
        memory = 16
        device "nvidia/gpu" {}
      }
    }
  }
}
`

const killTimeout = 15 * time.Second

// The steps share one job, since what each shows begins where the one before ends.
func TestRootHealth(t *testing.T) {
	uuid := func(i int) string { return gpus.GPUs[i].UUID }
	const lost, xid, owners = 3, 0, 1
	t.Cleanup(func() {
		play(t, func(all []*nvmlsim.GPU) {
			for _, g := range all {
				g.Faults, g.Processes = nil, nil
			}
		})
	})

	play(t, func(all []*nvmlsim.GPU) { all[lost].Lose() })
	sick(t, map[string]string{uuid(lost): "fallen off the bus"})
	status, err := shared.Nomad(t.Context(), "node", "status", "-verbose", shared.ID())
	must.NoError(t, err)
	must.StrContains(t, squeeze(status), "unique.unhealthy."+uuid(lost)+" = fallen off the bus")

	job, err := shared.Run(t.Context(), fill)
	must.NoError(t, err)
	running := awaitRunning(t, job, 7)
	must.MapNotContainsKey(t, running, uuid(lost))

	play(t, func(all []*nvmlsim.GPU) { all[lost].Faults = nil })
	running = awaitRunning(t, job, 8)
	must.MapContainsKey(t, running, uuid(lost))

	// The owner starts a program of his own on one GPU, which has a task; another reports an Xid, with a task on it too.
	game := exec.Command("sleep", "3600")
	must.NoError(t, game.Start())
	stopGame := func() {
		_ = game.Process.Kill()
		_ = game.Wait()
	}
	t.Cleanup(stopGame)
	evicted := running[uuid(owners)]
	play(t, func(all []*nvmlsim.GPU) {
		all[xid].Xid(48)
		all[owners].Processes = []nvmlsim.Process{{Kind: "compute", PID: game.Process.Pid, Bytes: 1 << 30}}
		// Tasks' own processes are not the owner's.
		for id, a := range running {
			pids, err := shared.Tasks(a.ID)
			must.NoError(t, err)
			must.SliceNotEmpty(t, pids)
			g := all[minor(t, id)]
			g.Processes = append(g.Processes, nvmlsim.Process{Kind: "compute", PID: pids[0], Bytes: 1 << 20})
		}
	})
	checkEviction(t, job, evicted)
	sick(t, map[string]string{uuid(xid): "Xid 48: double-bit ECC error", uuid(owners): "in use by its owner: sleep ("})
	for id, a := range running {
		now, _, err := shared.API().Allocations().Info(a.ID, nil)
		must.NoError(t, err)
		must.Eq(t, id != uuid(owners), now.ClientStatus == api.AllocClientStatusRunning, must.Sprint(id, now.ClientStatus))
	}

	stopGame()
	play(t, func(all []*nvmlsim.GPU) { all[owners].Processes = nil })
	running = awaitRunning(t, job, 8)
	must.NotEq(t, evicted.ID, running[uuid(owners)].ID)
	must.NoError(t, shared.Stop(t.Context(), job))
}

// checkEviction shows that an allocation is stopped as Nomad stops any: asked first, and killed after its kill_timeout.
func checkEviction(t *testing.T, job string, evicted *api.Allocation) {
	t.Helper()
	ended, err := shared.Await(t.Context(), job, "evicted", func(a *api.Allocation) bool {
		return a.ID == evicted.ID && a.ClientStatus == api.AllocClientStatusComplete
	})
	must.NoError(t, err)
	asked, killed := node.Events(ended, api.TaskKilling), node.Events(ended, api.TaskTerminated)
	must.Len(t, 1, asked)
	must.Len(t, 1, killed)
	must.Eq(t, 9, killed[0].Signal, must.Sprint(killed[0].DisplayMessage))
	must.GreaterEq(t, killTimeout, time.Duration(killed[0].Time-asked[0].Time))
	_, err = shared.AwaitLog(t.Context(), evicted.ID, "t", "asked to end by terminated")
	must.NoError(t, err)
}

// squeeze makes columns one space apart.
func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }
