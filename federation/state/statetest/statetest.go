// Package statetest starts a real Consul for tests: one server in memory, access control on and closed by default,
// ports of its own. The consul program is taken from PATH or from bin/ of this repository.
package statetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-uuid"
	"github.com/shoenig/test/must"
)

// Consul is a running server. It ends with the test.
type Consul struct {
	Address     string // host:port of the HTTP API
	GRPCAddress string // host:port of the gRPC API, two above the HTTP API's
	Token       string // management token

	t       *testing.T
	command *exec.Cmd
}

const config = `
acl {
  enabled        = true
  default_policy = "deny"
  tokens { initial_management = %[1]q  agent = %[1]q }
}
ports { http = %[2]d  dns = -1  grpc = %[5]d  grpc_tls = -1  server = %[3]d  serf_lan = %[4]d  serf_wan = -1 }
session_ttl_min = "1s"
log_level = "warn"
disable_update_check = true
`

// soon is how long it may take to start: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// Start starts a Consul and waits until it has a leader and its certificate authority works.
func Start(t *testing.T) *Consul {
	t.Helper()
	token, err := uuid.GenerateUUID()
	must.NoError(t, err)
	dir := t.TempDir()
	ports := FreePorts(t, 4)
	http, server, grpc, serf := ports[0], ports[1], ports[2], ports[3]
	file := filepath.Join(dir, "consul.hcl")
	must.NoError(t, os.WriteFile(file, fmt.Appendf(nil, config, token, http, server, serf, grpc), 0o600))
	c := &Consul{
		Address: address(http), GRPCAddress: address(grpc), Token: token, t: t,
	}
	log, err := os.Create(filepath.Join(dir, "consul.log"))
	must.NoError(t, err)
	c.command = exec.Command(Program(t, "consul"), "agent", "-dev", "-bind=127.0.0.1", "-config-file="+file)
	c.command.Stdout, c.command.Stderr = log, log
	c.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.NoError(t, c.command.Start())
	t.Cleanup(func() {
		c.Stop()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("consul's log:\n%.8000s", text)
		}
	})
	c.await()
	return c
}

// await asks for what starts last: a certificate.
func (c *Consul) await() {
	c.t.Helper()
	client := c.Client(c.Token)
	deadline := time.Now().Add(soon)
	for {
		_, _, err := client.Agent().ConnectCALeaf("statetest", nil)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("consul is not ready after %s: %v", soon, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Client returns a client with a token.
func (c *Consul) Client(token string) *api.Client {
	c.t.Helper()
	client, err := api.NewClient(&api.Config{Address: c.Address, Token: token})
	must.NoError(c.t, err)
	return client
}

// TokenFor makes a token with the given ACL rules.
func (c *Consul) TokenFor(name, rules string) string {
	c.t.Helper()
	acl := c.Client(c.Token).ACL()
	policy, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	must.NoError(c.t, err)
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	must.NoError(c.t, err)
	return token.SecretID
}

// Stop kills the server; it may be called before the test ends.
func (c *Consul) Stop() {
	if c.command.ProcessState != nil {
		return
	}
	_ = c.command.Process.Kill()
	_ = c.command.Wait()
}

// Program finds a tool on PATH or in the bin directory of this repository.
func Program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	dir, err := os.Getwd()
	must.NoError(t, err)
	for dir != "/" {
		path = filepath.Join(dir, "bin", name)
		_, err = os.Stat(path)
		if err == nil {
			return path
		}
		dir = filepath.Dir(dir)
	}
	t.Fatalf("cannot find %s on PATH or in bin/: run make tools", name)
	return ""
}
