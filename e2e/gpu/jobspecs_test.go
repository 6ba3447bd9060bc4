package gpu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/mpssim"
	"pangaea/e2e/node"
	"pangaea/e2e/nvmlsim"
)

// bring brings up a node of the test's own.
func bring(t *testing.T, gpus nvmlsim.State, device string) *node.Node {
	t.Helper()
	n, err := node.Start(t.Context(), node.Options{
		Programs: []string{"hello-gpu"}, GPUs: gpus, Device: device, Client: `plugin "raw_exec" { config { enabled = true } }`,
	})
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, n.Close(context.Background())) })
	return n
}

// example is a job of jobspecs/ as a user would run it, with the node's own registry.
func example(t *testing.T, n *node.Node, name string) *api.Job {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "jobspecs", name+".nomad.hcl"))
	must.NoError(t, err)
	job, err := n.API().Jobs().ParseHCLOpts(&api.JobsParseRequest{
		JobHCL: string(text), Variables: fmt.Sprintf("registry = %q", n.Registry.Address()),
	})
	must.NoError(t, err)
	return job
}

// complete runs a job until so many allocations are complete, and returns what each was granted and printed.
func complete(t *testing.T, n *node.Node, job *api.Job, count int) (grants [][]string, logs []string) {
	t.Helper()
	must.NoError(t, n.RunJob(t.Context(), job))
	return completed(t, n, job, count)
}

// completed is complete for a job that was run.
func completed(t *testing.T, n *node.Node, job *api.Job, count int) (grants [][]string, logs []string) {
	t.Helper()
	done := make(map[string]*api.Allocation)
	_, err := n.Await(t.Context(), *job.ID, "complete", func(a *api.Allocation) bool {
		for _, e := range node.Events(a, api.TaskDriverFailure) {
			t.Fatal(e.DisplayMessage)
		}
		if a.ClientStatus == api.AllocClientStatusComplete {
			done[a.ID] = a
		}
		return len(done) == count
	})
	must.NoError(t, err)
	for id, a := range done {
		log, err := n.AwaitLog(t.Context(), id, job.TaskGroups[0].Tasks[0].Name, "library libcuda.so.1")
		must.NoError(t, err)
		grants, logs = append(grants, granted(a)), append(logs, log)
	}
	return grants, logs
}

// awaitBlocked waits until Nomad has found no place for a job.
func awaitBlocked(t *testing.T, n *node.Node, job *api.Job) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	query := (&api.QueryOptions{}).WithContext(ctx)
	for {
		evals, meta, err := n.API().Jobs().Evaluations(*job.ID, query)
		must.NoError(t, err)
		if slices.ContainsFunc(evals, func(e *api.Evaluation) bool { return e.Status == "blocked" }) {
			return
		}
		query.WaitIndex = meta.LastIndex
	}
}

// The jobspecs for GPUs that are split by hardware and for GPUs that belong together, on a node with four GPUs in bridged
// pairs and one that has two MIG instances.
func TestRootPartsAndPairs(t *testing.T) {
	gpus := nvmlsim.Host("pairs", nvmlsim.RTX3090(), 4)
	for i, g := range gpus.GPUs {
		g.Links = []nvmlsim.Link{{RemoteBusID: gpus.GPUs[i^1].BusID}}
	}
	split := nvmlsim.A100PCIe40GB().GPU("pairs", 4)
	split.Set("MigMode", 1, 1)
	for i, uuid := range []string{"MIG-5e1f0000-0000-0000-0000-000000000001", "MIG-5e1f0000-0000-0000-0000-000000000002"} {
		split.MIG = append(split.MIG, nvmlsim.MIG{UUID: uuid, Profile: "1g.5gb", MemoryMiB: 4864, GI: 7 + i})
	}
	gpus.GPUs = append(gpus.GPUs, split)
	n := bring(t, gpus, `
    fingerprint_period = "500ms"
    group_by           = "nvlink"
`)

	grants, logs := complete(t, n, example(t, n, "topology"), 1)
	pair := slices.IndexFunc(gpus.GPUs, func(g *nvmlsim.GPU) bool { return g.UUID == grants[0][0] })
	must.Between(t, 0, pair, 3)
	must.SliceContainsAll(t, []string{gpus.GPUs[pair].UUID, gpus.GPUs[pair^1].UUID}, grants[0])
	must.StrContains(t, logs[0], fmt.Sprintf("node /dev/nvidia%d allowed=true", pair^1))

	// NVIDIA's generator finds a MIG instance's device nodes by the host's /proc/driver/nvidia-caps alone: what Nomad grants is shown
	// here, what the sandbox makes of it by the driver's TestRootMIG, in a mount namespace of its own.
	job := example(t, n, "mig")
	task := job.TaskGroups[0].Tasks[0]
	task.Driver, task.Config = "raw_exec", map[string]any{"command": "/bin/sh", "args": []string{"-c", "echo $NVIDIA_VISIBLE_DEVICES library libcuda.so.1"}}
	grants, logs = complete(t, n, job, 1)
	must.SliceContains(t, []string{split.MIG[0].UUID, split.MIG[1].UUID}, grants[0][0])
	must.StrHasPrefix(t, grants[0][0]+" ", logs[0])
}

// The jobspec for shares of a GPU: tasks of a namespace take turns, and one of another namespace is told why not.
func TestRootShares(t *testing.T) {
	n := bring(t, nvmlsim.Host("shares", nvmlsim.L4(), 1), `
    fingerprint_period = "500ms"
    allow_replicas     = 4
`)
	grants, _ := complete(t, n, example(t, n, "shared"), 2)
	must.NotEq(t, grants[0], grants[1])
	for _, g := range grants {
		must.Len(t, 1, g)
	}

	// named is the example under another name, for good, and not tried twice.
	named := func(id, namespace string) *api.Job {
		job := example(t, n, "shared")
		job.ID, job.Name, job.Namespace = &id, &id, &namespace
		group := job.TaskGroups[0]
		group.Count = new(int)
		*group.Count = 1
		group.Tasks[0].Config["args"] = []string{"stay"}
		none, fail := 0, "fail"
		group.RestartPolicy = &api.RestartPolicy{Attempts: &none, Mode: &fail}
		group.ReschedulePolicy = &api.ReschedulePolicy{Attempts: &none}
		return job
	}
	_, err := n.API().Namespaces().Register(&api.Namespace{Name: "rival"}, nil)
	must.NoError(t, err)
	must.NoError(t, n.RunJob(t.Context(), named("incumbent", "default")))
	_, err = n.AwaitStatus(t.Context(), "incumbent", api.AllocClientStatusRunning)
	must.NoError(t, err)

	refused := awaitIn(t, n, "rival", named("rival", "rival"), api.AllocClientStatusFailed)
	failure := node.Events(refused, api.TaskDriverFailure)
	must.Len(t, 1, failure)
	why := failure[0].DisplayMessage
	must.StrContains(t, why, "a task of another namespace has a share of it, which is not allowed on this host; ask for a whole GPU")
	must.NoError(t, n.RunJob(t.Context(), named("companion", "default")))
	_, err = n.AwaitStatus(t.Context(), "companion", api.AllocClientStatusRunning)
	must.NoError(t, err)

	for _, id := range []string{"incumbent", "companion"} {
		must.NoError(t, n.Stop(t.Context(), id))
	}
	awaitIn(t, n, "rival", named("rival-later", "rival"), api.AllocClientStatusRunning)
	for _, id := range []string{"rival", "rival-later"} {
		must.NoError(t, n.Stop(t.Context(), id))
	}
}

// A job that waits for shares by MPS runs once the control daemon does. A task of another driver gets what a client needs; Pangaea's
// own driver refuses it.
func TestRootSharesByMPS(t *testing.T) {
	control, err := mpssim.New(t.TempDir())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, control.Kill()) })
	t.Setenv("PATH", control.Bin+":"+os.Getenv("PATH"))
	gpus := nvmlsim.Host("mps", nvmlsim.L4(), 1)
	uuid := gpus.GPUs[0].UUID
	gpus.GPUs[0].Set("ComputeMode", 3)
	n := bring(t, gpus, fmt.Sprintf(`
    fingerprint_period = "500ms"
    allow_replicas     = 4
    sharing {
      mode           = "mps"
      pipe_directory = %q
    }
`, control.Pipe))
	job := example(t, n, "shared")
	task := job.TaskGroups[0].Tasks[0]
	runc := task.Config
	task.Driver, task.Config = "raw_exec", map[string]any{"command": "/bin/sh", "args": []string{"-c", "env; echo library libcuda.so.1"}}
	must.NoError(t, n.RunJob(t.Context(), job))
	awaitBlocked(t, n, job)
	must.NoError(t, control.Start())
	_, logs := completed(t, n, job, 2)
	for _, log := range logs {
		for _, line := range []string{
			"NVIDIA_VISIBLE_DEVICES=" + uuid, "CUDA_MPS_PIPE_DIRECTORY=" + control.Pipe,
			"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=" + uuid + "=5758M",
		} {
			must.StrContains(t, log, line+"\n")
		}
	}

	id, none, fail := "refused", 0, "fail"
	job.ID, job.Name = &id, &id
	task.Driver, task.Config = "runc", runc
	job.TaskGroups[0].RestartPolicy = &api.RestartPolicy{Attempts: &none, Mode: &fail}
	job.TaskGroups[0].ReschedulePolicy = &api.ReschedulePolicy{Attempts: &none}
	refused := awaitIn(t, n, "default", job, api.AllocClientStatusFailed)
	failure := node.Events(refused, api.TaskDriverFailure)
	must.Len(t, 1, failure)
	must.StrContains(t, failure[0].DisplayMessage, "cannot run on a GPU that is shared by MPS")
	must.NoError(t, n.Stop(t.Context(), id))
}

// awaitIn runs a job in a namespace until its allocation has a client status.
func awaitIn(t *testing.T, n *node.Node, namespace string, job *api.Job, status string) *api.Allocation {
	t.Helper()
	must.NoError(t, n.RunJob(t.Context(), job))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	query := (&api.QueryOptions{Namespace: namespace}).WithContext(ctx)
	for {
		stubs, meta, err := n.API().Jobs().Allocations(*job.ID, true, query)
		must.NoError(t, err, must.Sprint(*job.ID, " is not ", status))
		for _, stub := range stubs {
			if stub.ClientStatus == status {
				a, _, err := n.API().Allocations().Info(stub.ID, &api.QueryOptions{Namespace: namespace})
				must.NoError(t, err)
				return a
			}
		}
		query.WaitIndex = meta.LastIndex
	}
}
