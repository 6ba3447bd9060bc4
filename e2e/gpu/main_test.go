package gpu

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/node"
	"pangaea/e2e/nvmlsim"
)

var (
	shared *node.Node
	gpus   = nvmlsim.Host("gpu", nvmlsim.H100SXM(), 8)
)

const deviceConfig = `
    fingerprint_period = "500ms"
    recover_after      = 1
    owner {
      evict         = true
      nomad_address = "AGENT"
    }
`

func TestMain(m *testing.M) {
	os.Exit(node.Main(m, node.Options{Programs: []string{"hello-gpu"}, GPUs: gpus, Device: deviceConfig}, func(n *node.Node) { shared = n }))
}

// patience is far longer than anything takes: Nomad's client alone tells its servers of a device's change after 5 to
// 10 seconds.
const patience = 5 * time.Minute

// play changes what the GPUs are doing.
func play(t *testing.T, change func([]*nvmlsim.GPU)) {
	t.Helper()
	change(gpus.GPUs)
	must.NoError(t, shared.SetGPUs(gpus))
}

// awaitNode waits until the servers know of the node what is wanted; problem says what is not as it should be.
func awaitNode(t *testing.T, problem func(*api.Node) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	query := (&api.QueryOptions{}).WithContext(ctx)
	last := ""
	for {
		info, meta, err := shared.API().Nodes().Info(shared.ID(), query)
		must.NoError(t, err, must.Sprint(last))
		last = problem(info)
		if last == "" {
			return
		}
		query.WaitIndex = meta.LastIndex
	}
}

// health is each GPU's reason not to be offered, "" for those that are.
func health(n *api.Node) map[string]string {
	all := make(map[string]string)
	for _, group := range n.NodeResources.Devices {
		for _, instance := range group.Instances {
			all[instance.ID] = instance.HealthDescription
			if !instance.Healthy && instance.HealthDescription == "" {
				all[instance.ID] = "no reason given"
			}
		}
	}
	return all
}

// sick waits until exactly these GPUs are unhealthy, each for a reason that contains a text.
func sick(t *testing.T, want map[string]string) {
	t.Helper()
	awaitNode(t, func(n *api.Node) string {
		for id, reason := range health(n) {
			if (reason == "") != (want[id] == "") || !strings.Contains(reason, want[id]) {
				return fmt.Sprintf("GPU %s is unhealthy for %q, wanted %q", id, reason, want[id])
			}
		}
		return ""
	})
}

// awaitRunning waits until a job has so many running allocations, and returns them by the GPU that each has.
func awaitRunning(t *testing.T, job string, count int) map[string]*api.Allocation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	query := (&api.QueryOptions{}).WithContext(ctx)
	var seen []string
	for {
		stubs, meta, err := shared.API().Jobs().Allocations(job, true, query)
		must.NoError(t, err, must.Sprint(seen))
		running := make(map[string]*api.Allocation)
		seen = nil
		for _, stub := range stubs {
			seen = append(seen, stub.ID[:8]+" "+stub.ClientStatus+"/"+stub.DesiredStatus)
			if stub.ClientStatus == api.AllocClientStatusRunning && stub.DesiredStatus == api.AllocDesiredStatusRun {
				a, _, err := shared.API().Allocations().Info(stub.ID, (&api.QueryOptions{}).WithContext(ctx))
				must.NoError(t, err)
				for _, id := range granted(a) {
					running[id] = a
				}
			}
		}
		if len(running) == count {
			return running
		}
		query.WaitIndex = meta.LastIndex
	}
}

// granted are the GPUs that an allocation's tasks have, in order.
func granted(a *api.Allocation) []string {
	var ids []string
	for _, task := range a.AllocatedResources.Tasks {
		for _, device := range task.Devices {
			ids = append(ids, device.DeviceIDs...)
		}
	}
	slices.Sort(ids)
	return ids
}

// minor is the number of a GPU's device node.
func minor(t *testing.T, uuid string) int {
	t.Helper()
	i := slices.IndexFunc(gpus.GPUs, func(g *nvmlsim.GPU) bool { return g.UUID == uuid })
	must.NonNegative(t, i)
	return gpus.GPUs[i].Minor
}
