package strangers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/node"
)

const gvisorJob = `
job "NAME" {
  type      = "batch"
  namespace = "NAMESPACE"
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
        image   = "IMAGES/PROGRAM:1"
        args    = [ARGS]
        RUNTIME
      }
      resources {
        cpu    = 50
        memory = 192
      }
    }
  }
}
`

func runGVisor(t *testing.T, name, namespace, runtime, program, args string) string {
	t.Helper()
	if runtime != "" {
		runtime = fmt.Sprintf("runtime = %q", runtime)
	}
	job, err := shared.Run(t.Context(), strings.NewReplacer("NAMESPACE", namespace, "NAME", name, "PROGRAM", program, "ARGS", args, "RUNTIME", runtime).Replace(gvisorJob))
	must.NoError(t, err)
	return job
}

// sandboxes counts gVisor's of an allocation.
func sandboxes(t *testing.T, alloc string) int {
	t.Helper()
	pids, err := shared.Find(func(p node.Process) bool { return p.Args[0] == "runsc-sandbox" && strings.Contains(p.Cgroups, alloc) })
	must.NoError(t, err)
	return len(pids)
}

// A job under gVisor lives as any other: its output, commands in it, its limits and its end.
func TestRootGVisor(t *testing.T) {
	job := runGVisor(t, "gvisor", "default", "runsc", "exit", `"600", "0"`)
	a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Eq(t, 1, sandboxes(t, a.ID))
	code, err := shared.Exec(t.Context(), a, "t", false, strings.NewReader(""), new(strings.Builder), new(strings.Builder), "/usr/bin/exit", "0", "9")
	must.NoError(t, err)
	must.Eq(t, 9, code)
	must.Eq(t, 192<<20, memoryLimit(t, a.ID))
	must.NoError(t, shared.Stop(t.Context(), job))
	must.NoError(t, shared.AwaitClean(a.ID))

	job = runGVisor(t, "gvisor-exit", "default", "runsc", "exit", `"0", "7"`)
	_, event, err := shared.AwaitEvent(t.Context(), job, api.TaskTerminated, nil)
	must.NoError(t, err)
	must.Eq(t, 7, event.ExitCode)
	must.NoError(t, shared.Stop(t.Context(), job))
}

// memoryLimit is what the kernel holds an allocation's task to.
func memoryLimit(t *testing.T, alloc string) int {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/memory/nomad/" + alloc + ".t/memory.limit_in_bytes", "/sys/fs/cgroup/nomad.slice/*/" + alloc + ".t.scope/memory.max"} {
		found, err := filepath.Glob(pattern)
		must.NoError(t, err)
		for _, file := range found {
			text, err := os.ReadFile(file)
			must.NoError(t, err)
			var limit int
			_, err = fmt.Sscan(string(text), &limit)
			must.NoError(t, err)
			return limit
		}
	}
	t.Fatal("the task has no memory cgroup")
	return 0
}

// What the operator demands for strangers' namespaces they get without asking, and nothing else.
func TestRootDemandedRuntime(t *testing.T) {
	inNamespace(t, "sandboxed")
	job := runGVisor(t, "unasked", "sandboxed", "", "reach", `"127.0.0.1:9"`)
	a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Eq(t, 1, sandboxes(t, a.ID))
	text, err := shared.AwaitLog(t.Context(), a.ID, "t", "serving")
	must.NoError(t, err)
	must.Eq(t, "127.0.0.1:9 closed\nserving\n", text)
	must.NoError(t, shared.Stop(t.Context(), job))

	job = runGVisor(t, "refused", "sandboxed", "runc", "reach", "")
	_, event, err := shared.AwaitEvent(t.Context(), job, api.TaskDriverFailure, nil)
	must.NoError(t, err)
	must.StrContains(t, event.DisplayMessage, `this host's operator demands "runsc" of jobs in namespace "sandboxed"`)
	must.NoError(t, shared.Stop(t.Context(), job))

	job = runGVisor(t, "owner", "default", "", "reach", "")
	a, err = shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.Zero(t, sandboxes(t, a.ID))
	must.NoError(t, shared.Stop(t.Context(), job))
}
