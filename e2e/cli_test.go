package e2e

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// Every verb that a user of Nomad types works against the pool with the unmodified CLI.
func TestVerbs(t *testing.T) {
	allocation := runJob(t, "inference", api.AllocClientStatusRunning)[0]
	logs(t, allocation, "alive")
	words := strings.NewReplacer("ALLOC", allocation.ID[:8], "NODE", allocation.NodeID[:8], "EVAL", allocation.EvalID[:8])
	for _, c := range []struct{ command, want string }{
		{"job status", `inference\s+service\s+50\s+running`},
		{"job status inference", `(?s)Status\s+= running.*` + allocation.ID[:8] + `.*running`},
		{"job inspect inference", `"ID": "inference"`},
		{"job history inference", `Version\s+= 0`},
		{"job allocs inference", allocation.ID[:8]},
		{"job validate jobspecs/inference.nomad.hcl", `Job validation successful`},
		{"job eval inference", `finished with status "complete"`},
		{"status inference", `(?s)ID\s+= inference`},
		{"eval list", `inference`},
		{"alloc status ALLOC", `(?s)Client Status\s+= running.*Task "server" is "running"`},
		{"alloc logs ALLOC", `alive \d+`},
		{"alloc logs -tail -n 1 ALLOC", `alive \d+`},
		{"alloc fs ALLOC", `alloc/`},
		{"alloc fs ALLOC alloc/logs/", `server.stdout.0`},
		{"alloc fs ALLOC alloc/logs/server.stdout.0", `serving on port`},
		{"node status", `(?s)fr-par-1.*ready|ready.*fr-par-1`},
		{"node status NODE", `(?s)ID\s+= ` + allocation.NodeID[:8]},
		{"server members", `fr-par-1`},
		{"namespace list", `default`},
		{"operator api /v1/regions", `fr-par-1`},
	} {
		t.Run(c.command, func(t *testing.T) {
			output := nomad(t, strings.Fields(words.Replace(c.command))...)
			must.RegexMatch(t, regexp.MustCompile(c.want), output)
		})
	}
}

// alloc exec runs a command in the sandbox, with its input, its output and its exit code.
func TestExec(t *testing.T) {
	allocation := runJob(t, "inference", api.AllocClientStatusRunning)[0]
	logs(t, allocation, "alive") // until the member agent lets it start, there is nothing to execute in
	output, err := shared.Nomad(t.Context(), "alloc", "exec", "-i=false", "-t=false", allocation.ID, "/usr/bin/inference")
	// A second server finds its port taken by the task's, so it ends with 1 and says why.
	var exit *exec.ExitError
	must.True(t, errors.As(err, &exit))
	must.Eq(t, 1, exit.ExitCode())
	must.StrContains(t, output, "address already in use")
}

// job plan shows what would change and changes nothing.
func TestPlan(t *testing.T) {
	output, err := shared.Nomad(t.Context(), "job", "plan", "jobspecs/hello-gpu.nomad.hcl")
	must.Error(t, err) // exit status 1: there are changes
	must.StrContains(t, output, `+ Job: "hello-gpu"`)
	status, err := shared.Nomad(t.Context(), "job", "status", "hello-gpu")
	must.Error(t, err)
	must.StrContains(t, status, "No job(s) with prefix or ID")
}
