package gateway

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// nomadBinary finds the real CLI, on PATH or where the build puts it.
func nomadBinary(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("nomad")
	if err == nil {
		return path
	}
	path, err = filepath.Abs("../../bin/nomad")
	must.NoError(t, err)
	_, err = os.Stat(path)
	must.NoError(t, err, must.Sprint("the nomad CLI is needed: put it on PATH or into bin/"))
	return path
}

const webSpec = `
job "web" {
  group "g" {
    count = 2
    task "t" {
      driver = "runc"
      config { image = "registry.example/x" }
      resources {
        cpu    = 100
        memory = 64
        device "nvidia/gpu" {}
      }
    }
  }
}`

// cli runs the unmodified CLI against the pool.
func (p *fakePool) cli(args ...string) (output string, status int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	command := exec.CommandContext(ctx, nomadBinary(p.t), args...)
	command.Env = []string{"NOMAD_ADDR=" + p.server.URL, "HOME=" + p.t.TempDir(), "PATH=" + os.Getenv("PATH"), "NOMAD_TOKEN=user"}
	text, _ := command.CombinedOutput()
	return string(text), command.ProcessState.ExitCode()
}

// TestNomadCLI runs every verb of the unmodified CLI that the pool answers.
func TestNomadCLI(t *testing.T) {
	p := newPool(t, france(), japan())
	file := filepath.Join(t.TempDir(), "web.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte(webSpec), 0o600))
	impossible := filepath.Join(t.TempDir(), "big.nomad.hcl")
	must.NoError(t, os.WriteFile(impossible, []byte(strings.NewReplacer(`"web"`, `"big"`, `device "nvidia/gpu" {}`, `device "nvidia/gpu" { count = 64 }`).Replace(webSpec)), 0o600))
	nowhere := filepath.Join(t.TempDir(), "mars.nomad.hcl")
	must.NoError(t, os.WriteFile(nowhere, []byte(strings.Replace(webSpec, `"web" {`, `"mars" { 
	  region = "mars-1"`, 1)), 0o600))
	pinned := filepath.Join(t.TempDir(), "pin.nomad.hcl")
	must.NoError(t, os.WriteFile(pinned, []byte(strings.Replace(webSpec, `"web" {`, `"pin" { 
	  region = "jp-tyo-1"`, 1)), 0o600))
	alloc := func() string {
		stubs, _, err := p.client.Jobs().Allocations("web", false, nil)
		must.NoError(t, err)
		for _, stub := range stubs {
			if stub.ClientStatus == "running" {
				return stub.ID
			}
		}
		t.Fatal("no allocation of web runs")
		return ""
	}
	eval := func() string {
		evals, _, err := p.client.Jobs().Evaluations("web", nil)
		must.NoError(t, err)
		return evals[0].ID
	}
	deployment := func() string { return deploymentOf(t, p, "web") }
	text := func(s string) func() string { return func() string { return s } }
	for _, one := range []struct {
		args   string
		last   func() string
		status int
		want   string
	}{
		{"job validate", text(file), 0, `Job validation successful`},
		{"job plan", text(file), 1, `(?s)\+ Job: "web".*2 create.*Job Modify Index: 0`},
		{"job run", text(nowhere), 1, `no path to region|No path to region`},
		{"job run", text(file), 0, `(?s)Allocation ".*" created.*finished with status "complete".*Status += successful`},
		{"job run -check-index 1", text(file), 1, `Job not updated`},
		{"job run -detach", text(file), 0, `Evaluation ID: `},
		{"job status", nil, 0, `web +service +50 +running`},
		{"job status", text("web"), 0, `(?s)Status +.? +=? ?running|Status        = running.*Summary.*g +0 +0 +2.*Allocations`},
		{"status", text("web"), 0, `ID +=? web`},
		{"job inspect", text("web"), 0, `"ID": "web"`},
		{"job history -p", text("web"), 0, `Version +=? 0`},
		{"job allocs", text("web"), 0, `(?s)running.*running`},
		{"job scale -detach web", text("3"), 0, `Evaluation ID`},
		{"job scale web", text("2"), 0, `finished with status "complete"`},
		{"job history -p", text("web"), 0, `(?s)Version +=? 2.*Count.*Version +=? 1`},
		{"job revert web", text("1"), 0, `finished with status "complete"`},
		{"job eval", text("web"), 0, `Evaluation ".*" finished with status "complete"`},
		{"job evals", text("web"), 1, ``},
		{"job deployments", text("web"), 0, `successful`},
		{"deployment list", nil, 0, `web +`},
		{"deployment status", deployment, 0, `Deployment completed successfully`},
		{"eval list", nil, 0, `web +default|job-register`},
		{"eval status", eval, 0, `Status +=? complete`},
		{"alloc status", alloc, 0, `(?s)Client Status +=? running`},
		{"alloc logs", alloc, 0, `log of stdout at fr-par-1`},
		{"alloc logs -stderr", alloc, 0, `log of stderr at fr-par-1`},
		{"alloc fs", alloc, 0, `hello.txt`},
		{"alloc signal -s SIGHUP", alloc, 0, `^$`},
		{"alloc restart", alloc, 0, `^$`},
		{"alloc stop", alloc, 0, `finished with status "complete"`},
		{"node status", nil, 0, `(?s)(fr-par-1-node.*jp-tyo-1-node|jp-tyo-1-node.*fr-par-1-node)`},
		{"node status", text(nodeIDOf("jp-tyo-1")), 0, `Name +=? jp-tyo-1-node`},
		{"node status -self", nil, 1, `not running in client mode`},
		{"server members", nil, 0, `(?s)fr-par-1.*alive.*jp-tyo-1.*alive`},
		{"namespace list", nil, 0, `default`},
		{"operator api", text("/v1/regions"), 0, `"fr-par-1"`},
		{"operator api", text("/v1/vars"), 0, `does not answer`},
		{"job dispatch", text("web"), 1, `No parameterized job\(s\) with prefix or ID "web" found`},
		{"job run", text(impossible), 2, `(?s)Dimension|missing devices`},
		{"job status", text("big"), 0, `(?s)pending.*Placement Failure.*missing devices`},
		{"job run -detach", text(pinned), 0, `Evaluation ID`},
		{"job stop", text("web"), 0, `finished with status "complete"`},
		{"job stop -purge", text("web"), 0, `finished with status "complete"`},
		{"job status", text("web"), 1, `No job\(s\) with prefix or ID "web" found`},
		{"alloc status", text("0123abcd"), 1, `No allocation\(s\) with prefix or id`},
	} {
		args := strings.Fields(one.args)
		if one.last != nil {
			args = append(args, one.last())
		}
		t.Run(one.args, func(t *testing.T) {
			output, status := p.cli(args...)
			must.RegexMatch(t, regexp.MustCompile(one.want), output)
			must.Eq(t, one.status, status, must.Sprint(output))
		})
	}
	for _, m := range p.members {
		for _, token := range m.tokens {
			must.Eq(t, "", token, must.Sprint("the user's token reached "+m.alias))
		}
	}
}

func deploymentOf(t *testing.T, p *fakePool, id string) string {
	t.Helper()
	deployment, _, err := p.client.Jobs().LatestDeployment(id, nil)
	must.NoError(t, err)
	must.NotNil(t, deployment)
	return deployment.ID
}

// TestNomadCLIStreams covers the verbs that keep a connection open.
func TestNomadCLIStreams(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.eventually("an allocation", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 1 })
	stubs, _, err := p.client.Jobs().Allocations("web", false, nil)
	must.NoError(t, err)

	output, status := p.cli("alloc", "exec", "-task", "t", stubs[0].ID, "/bin/true")
	must.StrContains(t, output, "exec at fr-par-1")
	must.Eq(t, 3, status)

	command := exec.Command(nomadBinary(t), "alloc", "logs", "-f", "-task", "t", stubs[0].ID)
	command.Env = []string{"NOMAD_ADDR=" + p.server.URL}
	pipe, err := command.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, command.Start())
	first := make([]byte, 64)
	n, err := pipe.Read(first) // the stream stays open: only a flushed frame can be read
	must.NoError(t, err)
	must.StrContains(t, string(first[:n]), "at fr-par-1")
	must.NoError(t, command.Process.Kill())
	_ = command.Wait()
}
