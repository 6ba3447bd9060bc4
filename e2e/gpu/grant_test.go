package gpu

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// ask is a task that prints what it was given, with its own resources and a template.
const ask = `
job "ask" {
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
      driver       = "runc"
      kill_timeout = "15s"
      config {
        image = "IMAGES/hello-gpu:1"
        args  = [ARGS]
      }
      TEMPLATE
      resources {
        cpu    = 20
        memory = 16
        DEVICES
      }
    }
  }
}
`

func asking(args, template, devices string) string {
	return strings.NewReplacer("ARGS", args, "TEMPLATE", template, "DEVICES", devices).Replace(ask)
}

func TestRootGrant(t *testing.T) {
	forged := `template {
        env         = true
        destination = "local/env"
        data        = <<END
NVIDIA_VISIBLE_DEVICES=all
PANGAEA_GPU_` + strings.ReplaceAll(gpus.GPUs[0].UUID, "-", "_") + `=` + gpus.GPUs[0].UUID + `
END
      }`
	cases := []struct {
		name, template, devices string
		count                   int
	}{
		{"one", "", `device "nvidia/gpu" {}`, 1},
		{"all, by a template", forged, `device "nvidia/gpu" { count = 2 }`, 2},
		{"two device blocks", "", `device "nvidia/gpu" { count = 2 }
        device "nvidia/gpu/NVIDIA H100 80GB HBM3" {}`, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			job, err := shared.Run(t.Context(), asking(``, c.template, c.devices))
			must.NoError(t, err)
			a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusComplete)
			must.NoError(t, err)
			must.Len(t, c.count, granted(a))
			checkGrant(t, a, 1)
			must.NoError(t, shared.Stop(t.Context(), job))
		})
	}
}

// checkGrant shows that a task has printed, the nth time that it ran, the GPUs that Nomad granted and no others.
func checkGrant(t *testing.T, a *api.Allocation, runs int) {
	t.Helper()
	// Logs come in whole lines, and the libraries behind the devices.
	var logs []string
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		logs = strings.Split(shared.Logs(a.ID, "t", "stdout"), "hello from allocation ")
		if len(logs) == runs+1 && strings.Contains(logs[runs], "library libcuda.so.1") {
			break
		}
		must.True(t, time.Now().Before(deadline), must.Sprint(logs, shared.Logs(a.ID, "t", "stderr")))
	}
	var want, got []string
	for _, id := range granted(a) {
		want = append(want, "gpu "+id, fmt.Sprintf("node /dev/nvidia%d allowed=true", minor(t, id)))
	}
	for line := range strings.Lines(logs[runs]) {
		if strings.HasPrefix(line, "gpu ") || strings.HasPrefix(line, "node ") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	must.Eq(t, want, got)
}

// A task that is restarted after Nomad's agent was has its GPUs again, and no others (hashicorp/nomad#9473).
func TestRootGrantOutlivesAgent(t *testing.T) {
	job, err := shared.Run(t.Context(), asking(`"stay"`, "", `device "nvidia/gpu" { count = 2 }`))
	must.NoError(t, err)
	a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
	must.NoError(t, err)
	checkGrant(t, a, 1)

	must.NoError(t, shared.StopClient())
	must.NoError(t, shared.StartClient(t.Context()))
	must.NoError(t, shared.API().Allocations().Restart(a, "t", nil))
	_, err = shared.Await(t.Context(), job, "restarted", func(now *api.Allocation) bool {
		return now.TaskStates["t"] != nil && now.TaskStates["t"].Restarts == 1 && now.TaskStates["t"].State == "running"
	})
	must.NoError(t, err)
	_, err = shared.AwaitLog(t.Context(), a.ID, "t", "asked to end")
	must.NoError(t, err)
	checkGrant(t, a, 2)
	checkCgroup(t, a)
	must.NoError(t, shared.Stop(t.Context(), job))
}

// checkCgroup puts a process of the host, which has all nodes in reach, into the task's device cgroup: it is the kernel
// that keeps the task from other GPUs, and lets it have its own (which then say that there is no hardware).
func checkCgroup(t *testing.T, a *api.Allocation) {
	t.Helper()
	var groups []string
	for _, pattern := range []string{"devices/nomad/", "devices/nomad/*/", "nomad.slice/*/"} {
		found, _ := filepath.Glob("/sys/fs/cgroup/" + pattern + a.ID + ".t*")
		groups = append(groups, found...)
	}
	must.Len(t, 1, groups)
	for _, g := range gpus.GPUs {
		script := fmt.Sprintf("echo $$ > %s/cgroup.procs && : < %s/driver-root/dev/nvidia%d", groups[0], shared.Dir, g.Minor)
		out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput()
		must.Error(t, err, must.Sprint("there is no such hardware"))
		want := "not permitted"
		if slices.Contains(granted(a), g.UUID) {
			want = "No such device"
		}
		must.StrContains(t, string(out), want, must.Sprint(g.UUID))
	}
}
