package node

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

var shared *Node

func TestMain(m *testing.M) {
	os.Exit(Main(m, Options{Programs: []string{"exit"}, GPUs: nvmlsim.Host("node", nvmlsim.L4(), 2)}, func(n *Node) { shared = n }))
}

const sleeper = `
job "sleeper" {
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
      config {
        image = "IMAGES/exit:1"
        args  = ["SECONDS", "7"]
      }
      resources {
        cpu    = 50
        memory = 32
        device "nvidia/gpu" {}
      }
    }
  }
}
`

// A job runs with a GPU, is executed in, outlives the client, and has its exit code known; nothing is left of it.
func TestRootNode(t *testing.T) {
	job, err := shared.Run(t.Context(), strings.Replace(sleeper, "SECONDS", "600", 1))
	must.NoError(t, err)
	a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Len(t, 1, a.AllocatedResources.Tasks["t"].Devices)

	output, err := shared.ExecCLI(t.Context(), a.ID, "t", "/usr/bin/exit", "0", "0")
	must.NoError(t, err, must.Sprint(output))
	code, err := shared.Exec(t.Context(), a, "t", false, strings.NewReader(""), new(strings.Builder), new(strings.Builder), "/usr/bin/exit", "0", "9")
	must.NoError(t, err)
	must.Eq(t, 9, code)

	for _, name := range []string{"pangaea-driver", "pangaea-device"} {
		pids, err := shared.Plugin(name)
		must.NoError(t, err)
		must.Len(t, 1, pids, must.Sprint(name))
	}
	logmons, err := shared.Logmons()
	must.NoError(t, err)
	must.Len(t, 1, logmons)
	shims, err := shared.Shims(a.ID)
	must.NoError(t, err)
	must.Len(t, 1, shims)
	var before []int
	must.NoError(t, eventually(func() []string { // what was executed ends a moment after its exit code is known
		before, err = shared.Tasks(a.ID)
		must.NoError(t, err)
		if len(before) == 1 {
			return nil
		}
		return []string{fmt.Sprint("processes of the task: ", before)}
	}))

	must.NoError(t, shared.KillClient())
	must.NoError(t, shared.StartClient(t.Context()))
	after, err := shared.Tasks(a.ID)
	must.NoError(t, err)
	must.Eq(t, before, after)

	must.NoError(t, shared.Stop(t.Context(), job))
	must.NoError(t, shared.AwaitClean(a.ID))
}

// How a task ended is in its events.
func TestRootNodeExit(t *testing.T) {
	job, err := shared.Run(t.Context(), strings.Replace(sleeper, "SECONDS", "0", 1))
	must.NoError(t, err)
	_, event, err := shared.AwaitEvent(t.Context(), job, api.TaskTerminated, nil)
	must.NoError(t, err)
	must.Eq(t, 7, event.ExitCode)
	must.NoError(t, shared.Stop(t.Context(), job))
}
