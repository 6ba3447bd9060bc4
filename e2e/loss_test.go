package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/devpool"
)

// alive matches the line that the service prints each second: its clock in Unix milliseconds.
var alive = regexp.MustCompile(`alive (\d+)`)

// span is the time from the first to the last sign of life that an allocation logged.
func span(t *testing.T, logs string) (first, last int64) {
	t.Helper()
	beats := alive.FindAllStringSubmatch(logs, -1)
	must.SliceNotEmpty(t, beats, must.Sprint("no sign of life in ", logs))
	first, err := strconv.ParseInt(beats[0][1], 10, 64)
	must.NoError(t, err)
	last, err = strconv.ParseInt(beats[len(beats)-1][1], 10, 64)
	must.NoError(t, err)
	return first, last
}

// A member whose power goes: the service is placed elsewhere after its lost_after. When the power is back, Nomad wants
// the old copy again; it must not run, not even for a moment. Time is the tasks' own.
func TestMemberLost(t *testing.T) {
	replaced(t, "jobspecs/inference.nomad.hcl", (*devpool.Cluster).PowerOff)
}

// A member whose agents die while its tasks run on, and a service that must never run twice: the old copy's own lease
// ends it before the new one starts.
func TestMemberLostNeverTwice(t *testing.T) {
	spec, err := os.ReadFile(filepath.Join(shared.Root, "jobspecs", "inference.nomad.hcl"))
	must.NoError(t, err)
	never := strings.ReplaceAll(string(spec), `lost_after = "20s"`, `stop_on_client_after = "10s"`)
	must.StrContains(t, never, "stop_on_client_after")
	replaced(t, writeJob(t, never), (*devpool.Cluster).Kill)
}

// replaced runs the inference service, takes its member down, waits until the service runs on another member, brings
// the first one back, and checks that two copies never ran at the same moment.
func replaced(t *testing.T, jobspec string, takeDown func(*devpool.Cluster) error) {
	t.Helper()
	purgeAfter(t, "inference")
	nomad(t, "job", "run", "-detach", "-var", "countries=FR,US", jobspec)
	running, err := shared.AwaitJob(t.Context(), "inference", api.AllocClientStatusRunning, patience)
	must.NoError(t, err)
	first := running[0]
	logs(t, first, "alive")
	lost := memberOf(t, first)
	other := map[string]string{"fr-par-1": "us-nyc-1", "us-nyc-1": "fr-par-1"}[lost.Alias]

	killed := time.Now()
	must.NoError(t, takeDown(lost))
	t.Cleanup(func() { reviveIfDead(t, lost) })
	second := awaitMember(t, "inference", other, patience)
	t.Logf("placed on %s %s after %s was lost", other, time.Since(killed).Round(100*time.Millisecond), lost.Alias)
	logs(t, second, "alive")

	must.NoError(t, lost.Revive(t.Context()))
	must.NoError(t, shared.AwaitMembers(t.Context()))
	must.NoError(t, lost.AwaitStopped(t.Context(), "inference", patience))
	must.Eq(t, second.ID, awaitMember(t, "inference", other, patience).ID)

	before, err := lost.Logs(t.Context(), first.ID, "server")
	must.NoError(t, err)
	_, lastBefore := span(t, before)
	firstAfter, _ := span(t, nomad(t, "alloc", "logs", second.ID))
	must.Less(t, firstAfter, lastBefore, must.Sprint("two copies ran at once"))
	t.Logf("nobody ran the service for %s", time.Duration(firstAfter-lastBefore)*time.Millisecond)
}

// reviveIfDead brings a member back that a failed test left dead.
func reviveIfDead(t *testing.T, cluster *devpool.Cluster) {
	t.Helper()
	if cluster.Running() {
		return
	}
	must.NoError(t, cluster.Revive(context.Background()))
	must.NoError(t, shared.AwaitMembers(context.Background()))
}

func memberOf(t *testing.T, allocation *devpool.Allocation) *devpool.Cluster {
	t.Helper()
	for _, cluster := range shared.Clusters {
		if cluster.Alias == allocation.Member {
			return cluster
		}
	}
	t.Fatalf("allocation %s runs on an unknown member %q", allocation.ID, allocation.Member)
	return nil
}

// awaitMember waits until a job runs on a member.
func awaitMember(t *testing.T, job, member string, timeout time.Duration) *devpool.Allocation {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		allocations, err := shared.AwaitJob(t.Context(), job, api.AllocClientStatusRunning, time.Until(deadline))
		must.NoError(t, err)
		for _, allocation := range allocations {
			if allocation.Member == member {
				return allocation
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %s does not run on %s after %s", job, member, timeout)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// The gateway's death loses nothing: jobs, placements and running work are there when it is back.
func TestGatewayRestart(t *testing.T) {
	before := runJob(t, "inference", api.AllocClientStatusRunning)
	must.NoError(t, shared.KillGateway())
	answer, err := shared.Ask(t.Context(), before[0], "/v1/embed", "nobody at the gate")
	must.NoError(t, err)
	must.StrContains(t, answer, before[0].ID)
	must.NoError(t, shared.RunGateway(t.Context()))
	must.NoError(t, shared.AwaitMembers(t.Context()))
	after, err := shared.AwaitJob(t.Context(), "inference", api.AllocClientStatusRunning, patience)
	must.NoError(t, err)
	must.Eq(t, before[0].ID, after[0].ID)
}

// kill -9 of the Nomad client and of both plugins while a task runs: the task runs on, is found again, and the exit
// code that it has meanwhile is the one that Nomad reports.
func TestClientAndPluginsKilled(t *testing.T) {
	path := writeJob(t, spec(map[string]string{
		"JOB": "exit-seven", "IMAGE": "10.199.0.1:5000/exit:1", "ARGS": `args = ["3600", "7"]`, "CONSTRAINT": `region = "us-nyc-1"`,
	}))
	purgeAfter(t, "exit-seven")
	nomad(t, "job", "run", "-detach", path)
	running, err := shared.AwaitJob(t.Context(), "exit-seven", api.AllocClientStatusRunning, patience)
	must.NoError(t, err)
	cluster := memberOf(t, running[0])
	must.NoError(t, cluster.KillClientAndPlugins())
	must.NoError(t, cluster.SignalTask(running[0].ID, syscall.SIGUSR1)) // it ends while nobody looks
	must.NoError(t, cluster.ReviveClient(t.Context()))
	failed := awaitStatus(t, "exit-seven", api.AllocClientStatusFailed, patience)
	must.Eq(t, 7, exitCode(t, failed))
}

// awaitStatus waits until the job's newest allocation has a client status.
func awaitStatus(t *testing.T, job, status string, timeout time.Duration) *devpool.Allocation {
	t.Helper()
	client, err := shared.API()
	must.NoError(t, err)
	deadline := time.Now().Add(timeout)
	for {
		stubs, _, err := client.Jobs().Allocations(job, true, nil)
		if err == nil && len(stubs) > 0 && stubs[0].ClientStatus == status {
			all, err := shared.Allocations(t.Context(), stubs[:1])
			must.NoError(t, err)
			return all[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %s: no allocation is %s after %s: %v %v", job, status, timeout, stubs, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
