package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// limited is a task that shares the processors and one that has a core of its own.
const limited = `
job "limited" {
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
    task "shares" {
      driver = "runc"
      config {
        image          = "IMAGES/exit:1"
        args           = ["600", "0"]
        pids_limit     = 33
        cpu_hard_limit = true
      }
      resources {
        cpu    = 100
        memory = 32
      }
    }
    task "owns" {
      driver = "runc"
      config {
        image = "IMAGES/exit:1"
        args  = ["600", "0"]
      }
      resources {
        cores  = 1
        memory = 48
      }
    }
  }
}
`

// What a job asks for is what the kernel holds its tasks to, in the cgroups that Nomad's client made.
func TestRootNodeLimits(t *testing.T) {
	job, err := shared.Run(t.Context(), limited)
	must.NoError(t, err)
	a, err := shared.Await(t.Context(), job, "running with both tasks", func(a *api.Allocation) bool {
		return len(Events(a, api.TaskStarted)) == 2
	})
	must.NoError(t, err)
	pids, err := shared.Tasks(a.ID)
	must.NoError(t, err)
	must.Len(t, 2, pids)
	tasks := map[string]groups{}
	for _, pid := range pids {
		g := readGroups(t, pid)
		tasks[g.task(a.ID)] = g
	}
	shares, owns := tasks["shares"], tasks["owns"]
	must.Eq(t, "33", shares.value(t, "pids", "pids.max"))
	limit := map[string]string{"shares": fmt.Sprint(32 << 20), "owns": fmt.Sprint(48 << 20)}
	for name, g := range tasks {
		if g.unified() {
			must.Eq(t, limit[name], g.value(t, "", "memory.max"))
			must.Eq(t, "0", g.value(t, "", "memory.swap.max"))
			continue
		}
		must.Eq(t, limit[name], g.value(t, "memory", "memory.limit_in_bytes"))
		must.Eq(t, limit[name], g.value(t, "memory", "memory.memsw.limit_in_bytes"))
	}
	if shares.unified() {
		must.Eq(t, "/nomad.slice/share.slice/"+a.ID+".shares.scope", shares.paths[""])
		must.Eq(t, "/nomad.slice/reserve.slice/"+a.ID+".owns.scope", owns.paths[""])
		must.StrNotHasPrefix(t, "max ", shares.value(t, "", "cpu.max"))
		must.StrHasPrefix(t, "max ", owns.value(t, "", "cpu.max"))
		must.Eq(t, "", shares.value(t, "", "cpuset.cpus"), must.Sprint("Nomad resizes the slice above"))
	} else {
		must.NotEq(t, "-1", shares.value(t, "cpu", "cpu.cfs_quota_us"))
		must.Eq(t, "-1", owns.value(t, "cpu", "cpu.cfs_quota_us"))
	}
	own := owns.value(t, "cpuset", "cpuset.cpus")
	_, err = strconv.Atoi(own)
	must.NoError(t, err, must.Sprint("one core"))
	must.Eq(t, own, owns.allowed(t))
	must.NotEq(t, own, shares.allowed(t), must.Sprint("the other core is its owner's alone"))
	must.NoError(t, shared.Stop(t.Context(), job))
	must.NoError(t, shared.AwaitClean(a.ID))
}

// groups are the cgroups of a process: paths by controller, that of cgroup v2 by "".
type groups struct {
	pid   int
	paths map[string]string
}

func readGroups(t *testing.T, pid int) groups {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must.NoError(t, err)
	g := groups{pid: pid, paths: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(fields[1], ",") {
			g.paths[controller] = fields[2]
		}
	}
	return g
}

func (g groups) unified() bool { return g.paths["memory"] == "" }

// task is the name of the task whose process it is.
func (g groups) task(alloc string) string {
	path := g.paths["memory"]
	if g.unified() {
		path = g.paths[""]
	}
	_, name, _ := strings.Cut(path, alloc+".")
	return strings.TrimSuffix(name, ".scope")
}

// value reads a file of the cgroup that a controller has the process in.
func (g groups) value(t *testing.T, controller, file string) string {
	t.Helper()
	dir := filepath.Join(cgroupRoot, controller, g.paths[controller])
	if g.unified() {
		dir = filepath.Join(cgroupRoot, g.paths[""])
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	must.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// allowed lists the processors that the process may use.
func (g groups) allowed(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid))
	must.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "\nCpus_allowed_list:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}
