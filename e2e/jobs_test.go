package e2e

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/devpool"
)

// nomad runs the CLI, which must succeed, and returns its output.
func nomad(t *testing.T, args ...string) string {
	t.Helper()
	output, err := shared.Nomad(t.Context(), args...)
	must.NoError(t, err)
	return output
}

// runJob runs a jobspec through the gateway, waits for its allocations, and purges the job when the test ends.
func runJob(t *testing.T, job, status string) []*devpool.Allocation {
	t.Helper()
	purgeAfter(t, job)
	nomad(t, "job", "run", "-detach", "jobspecs/"+job+".nomad.hcl")
	allocations, err := shared.AwaitJob(t.Context(), job, status, patience)
	must.NoError(t, err)
	return allocations
}

// purgeAfter takes a job off the pool when the test ends, and waits until its GPUs are free again.
func purgeAfter(t *testing.T, job string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := shared.Nomad(context.Background(), "job", "stop", "-purge", "-detach", "-yes", job)
		must.NoError(t, err)
		must.NoError(t, shared.AwaitIdle(context.Background(), job, patience))
	})
}

// logs returns what an allocation printed, once it holds the wanted text.
func logs(t *testing.T, allocation *devpool.Allocation, want string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		output, err := shared.Nomad(t.Context(), "alloc", "logs", allocation.ID)
		if err == nil && strings.Contains(output, want) {
			return output
		}
		must.True(t, time.Now().Before(deadline), must.Sprint(output, err))
	}
}

var uuidPattern = regexp.MustCompile(`GPU-[0-9a-f-]{36}`)

// A task gets the one GPU that Nomad granted: its UUID, its node, and the driver's libraries.
func TestHelloGPU(t *testing.T) {
	allocations := runJob(t, "hello-gpu", api.AllocClientStatusComplete)
	must.Len(t, 1, allocations)
	output := logs(t, allocations[0], "library libcuda.so.1")
	granted := uuidPattern.FindString(strings.Join(allocations[0].GPUs, " "))
	must.NotEq(t, "", granted)
	must.Eq(t, []string{granted}, uuidPattern.FindAllString(output, -1))
	must.Eq(t, 1, strings.Count(output, "node /dev/nvidia"))
	must.StrContains(t, output, "allowed=true")
	must.Eq(t, 0, exitCode(t, allocations[0]))
}

// region = "<alias>" runs the job on that member.
func TestPin(t *testing.T) {
	allocations := runJob(t, "pin", api.AllocClientStatusComplete)
	must.Eq(t, "jp-tyo-1", allocations[0].Member)
	must.Eq(t, "JP", allocations[0].Country)
}

// A constraint on the country and on the GPU's memory holds, and the service answers, takes commands and stops.
func TestInference(t *testing.T) {
	allocations := runJob(t, "inference", api.AllocClientStatusRunning)
	must.Eq(t, "FR", allocations[0].Country)
	answer, err := shared.Ask(t.Context(), allocations[0], "/v1/embed", "idle GPUs")
	must.NoError(t, err)
	must.StrContains(t, answer, `"country":"FR"`)
	must.StrContains(t, answer, allocations[0].ID)
	logs(t, allocations[0], "serving on port")
}

// A gang of six runs over three members with two GPUs each, in one world, and agrees on a result.
func TestTraining(t *testing.T) {
	allocations := runJob(t, "training", api.AllocClientStatusComplete)
	must.Len(t, 6, allocations)
	ranks, members, checksums := map[string]bool{}, map[string]int{}, map[string]bool{}
	pattern := regexp.MustCompile(`rank (\d) agrees with 6 workers: .* checksum ([0-9a-f]{16})`)
	for _, allocation := range allocations {
		match := pattern.FindStringSubmatch(logs(t, allocation, "agrees with 6 workers"))
		must.NotNil(t, match)
		ranks[match[1]], checksums[match[2]] = true, true
		members[allocation.Member]++
	}
	must.MapLen(t, 6, ranks)
	must.MapLen(t, 1, checksums)
	must.Eq(t, map[string]int{"fr-par-1": 2, "us-nyc-1": 2, "jp-tyo-1": 2}, members)
}

// The members of the test pool really cannot reach one another: what crosses between them goes through the gateway.
func TestMembersAreApart(t *testing.T) {
	for _, from := range shared.Clusters {
		for _, to := range shared.Clusters {
			address := net.JoinHostPort(to.Address, "4646")
			if from == to {
				reaches(t, from, address)
			} else {
				must.Error(t, from.Dial(t.Context(), address), must.Sprint(from.Alias, " reaches ", to.Alias))
			}
		}
		reaches(t, from, devpool.BridgeAddress+":4649")
	}
}

// reaches dials until it gets through: a wall keeps one waiting, and so does a busy machine.
func reaches(t *testing.T, from *devpool.Cluster, address string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := from.Dial(t.Context(), address)
		if err == nil {
			return
		}
		must.True(t, time.Now().Before(deadline), must.Sprint(err))
	}
}

// exitCode is the exit code of an allocation's only task.
func exitCode(t *testing.T, allocation *devpool.Allocation) int {
	t.Helper()
	for _, state := range allocation.TaskStates {
		for _, event := range state.Events {
			if event.Type == api.TaskTerminated {
				return event.ExitCode
			}
		}
	}
	t.Fatalf("allocation %s has not terminated", allocation.ID)
	return -1
}
