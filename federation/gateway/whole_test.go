package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	agent "pangaea/federation/member"
	"pangaea/federation/nomad"
	"pangaea/federation/nomad/nomadtest"
	"pangaea/federation/state"
	"pangaea/federation/state/statetest"
)

// sleeper is a service that any Nomad can run.
const sleeper = `
job "sleeper" {
  group "g" {
    count = 2
    update { min_healthy_time = "0s" }
    task "t" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["600"]
      }
      resources {
        cpu    = 10
        memory = 10
      }
    }
  }
}`

// TestRealMember joins everything: a gateway, a member agent and its own Nomad, all real.
func TestRealMember(t *testing.T) {
	consul := statetest.Start(t)
	own := nomadtest.Start(t, "pool-default")
	dir := t.TempDir()
	token := func(name, rules string) string {
		file := filepath.Join(dir, name)
		must.NoError(t, os.WriteFile(file, []byte(consul.TokenFor(name, rules)), 0o600))
		return file
	}
	memberRules, err := state.PolicyMember("fr-par-1")
	must.NoError(t, err)
	userRules, err := state.PolicyUser("default")
	must.NoError(t, err)
	user := consul.TokenFor("user", userRules)
	ports := statetest.FreePorts(t, 2)
	g := startReal(t, configFor(t, consul, token("gateway", state.PolicyGateway()), ports), ports)
	awaitLog(t, g, "leading the pool")

	ctx, cancel := context.WithCancel(context.Background())
	log, done := &syncBuffer{}, make(chan error, 1)
	config := agent.Config{
		Alias: "fr-par-1", Country: "FR", Continent: "EU", Gateways: []string{g.tunnel},
		Consul: &agent.ConsulConfig{Address: consul.Address, GRPCAddress: consul.GRPCAddress, TokenFile: token("member", memberRules)},
		Nomad:  &nomad.Config{Address: own.Address, TokenFile: own.TokenFile},
		Policy: &agent.Policy{AllowDrivers: []string{"raw_exec"}},
	}
	go func() { done <- agent.Run(ctx, config, hclog.New(&hclog.LoggerOptions{Output: log})) }()
	defer func() {
		cancel()
		must.NoError(t, <-done)
		if t.Failed() {
			t.Logf("member:\n%s", log.String())
		}
	}()
	own.AwaitNode()
	awaitLog(t, g, "to=ready")
	awaitNodes(t, g.http, user)

	file := filepath.Join(dir, "sleeper.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte(sleeper), 0o600))
	direct := strings.TrimPrefix(own.Address, "http://")
	begun := time.Now()
	output, status := realCLI(t, direct, own.Token, "job", "run", file)
	alone := time.Since(begun)
	must.Eq(t, 0, status, must.Sprint(output))
	_, _ = realCLI(t, direct, own.Token, "job", "stop", "-purge", "sleeper")
	begun = time.Now()
	output, status = realCLI(t, g.http, user, "job", "run", file)
	pooled := time.Since(begun)
	must.Eq(t, 0, status, must.Sprint(output))
	must.StrContains(t, output, `finished with status "complete"`)
	must.StrContains(t, output, "Status      = successful")
	t.Logf("nomad job run: %s at the member itself, %s through the pool", alone.Round(time.Millisecond), pooled.Round(time.Millisecond))

	for args, want := range map[string]string{
		"job status sleeper": "running", "node status": "ready", "job deployments sleeper": "successful", "server members": "fr-par-1",
	} {
		output, status = realCLI(t, g.http, user, strings.Fields(args)...)
		must.Eq(t, 0, status, must.Sprint(output))
		must.StrContains(t, output, want)
	}
	output, status = realCLI(t, g.http, user, "job", "scale", "sleeper", "3")
	must.Eq(t, 0, status, must.Sprint(output))
	output, status = realCLI(t, g.http, user, "job", "stop", "-purge", "sleeper")
	must.Eq(t, 0, status, must.Sprint(output))
	output, status = realCLI(t, g.http, user, "job", "run", file) // its name is free again
	must.Eq(t, 0, status, must.Sprint(output))
	dispatchReal(t, g.http, user)
}

// dispatchReal checks that what is dispatched comes to the task: its metadata, and its payload byte for byte.
func dispatchReal(t *testing.T, address, token string) {
	t.Helper()
	file, input := filepath.Join(t.TempDir(), "say.nomad.hcl"), filepath.Join(t.TempDir(), "input")
	must.NoError(t, os.WriteFile(file, []byte(saySpec), 0o600))
	must.NoError(t, os.WriteFile(input, []byte("a \x00 \xff {{ b }}\n"), 0o600))
	output, status := realCLI(t, address, token, "job", "run", file)
	must.Eq(t, 0, status, must.Sprint(output))
	output, status = realCLI(t, address, token, "job", "dispatch", "-meta", "who=me", "say", input)
	must.Eq(t, 0, status, must.Sprint(output))
	child := regexp.MustCompile(`say/dispatch-[^\s]+`).FindString(output)
	deadline := time.Now().Add(soon)
	for status, output = 1, ""; status != 0 || !strings.Contains(output, "says"); {
		must.True(t, time.Now().Before(deadline), must.Sprint(output))
		time.Sleep(200 * time.Millisecond)
		output, status = realCLI(t, address, token, "alloc", "logs", "-job", child)
	}
	must.StrContains(t, output, "me says in say\na \x00 \xff {{ b }}\n")
}

// awaitNodes waits until the member's nodes carry the pool's words.
func awaitNodes(t *testing.T, address, token string) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		output, _ := realCLI(t, address, token, "node", "status", "-json")
		if strings.Contains(output, fmt.Sprintf("%q", "ready")) {
			return
		}
		must.True(t, time.Now().Before(deadline), must.Sprint(output))
		time.Sleep(100 * time.Millisecond)
	}
}
