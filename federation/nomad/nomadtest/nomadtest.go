// Package nomadtest starts a real Nomad for tests: one agent that is server and client at once, with access control
// on, the raw_exec driver and ports of its own. The nomad program is taken from PATH or from bin/ of this repository.
package nomadtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/state/statetest"
)

// Nomad is a running cluster of one. It ends with the test, its jobs with it.
type Nomad struct {
	Address   string // http://host:port
	Token     string // management token
	TokenFile string // file with a token that has the member agent's policy

	t       *testing.T
	dir     string
	command *exec.Cmd
}

const config = `
name = "member"
data_dir = %[1]q
bind_addr = "127.0.0.1"
ports { http = %[2]d  rpc = %[3]d  serf = %[4]d }
advertise { http = "127.0.0.1"  rpc = "127.0.0.1"  serf = "127.0.0.1" }
acl { enabled = true }
server { enabled = true  bootstrap_expect = 1  heartbeat_grace = "15m"  min_heartbeat_ttl = "3s" }
client {
  enabled = true
  network_interface = "lo"
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist" = "raw_exec"
    "fingerprint.network.disallow_link_local" = "false"
  }
}
plugin "raw_exec" { config { enabled = true } }
consul { auto_advertise = false  server_auto_join = false  client_auto_join = false }
disable_update_check = true
log_level = "warn"
`

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// Policy is what a member's owner grants the agent, and alloc-node-exec, which only tasks without a sandbox need.
const Policy = `
namespace "pool-*" {
  policy = "write"
  capabilities = ["alloc-node-exec"]
  variables { path "*" { capabilities = ["list", "read", "write", "destroy"] } }
}
namespace "*" { capabilities = ["list-jobs", "read-job"] }
node  { policy = "write" }
agent { policy = "read" }
`

// Start starts a Nomad and waits until its node is ready. The namespaces are made in it, for an agent that may not.
func Start(t *testing.T, namespaces ...string) *Nomad {
	t.Helper()
	return StartWith(t, "", namespaces...)
}

// StartWith is Start with more configuration, which Nomad merges with this package's own.
func StartWith(t *testing.T, more string, namespaces ...string) *Nomad {
	t.Helper()
	dir, err := os.MkdirTemp("", "pangaea-nomad-")
	must.NoError(t, err)
	ports := statetest.FreePorts(t, 3)
	file := filepath.Join(dir, "nomad.hcl")
	text := fmt.Appendf(nil, config, filepath.Join(dir, "data"), ports[0], ports[1], ports[2])
	must.NoError(t, os.WriteFile(file, text, 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "more.hcl"), []byte(more), 0o600))
	n := &Nomad{Address: fmt.Sprintf("http://127.0.0.1:%d", ports[0]), t: t, dir: dir}
	t.Cleanup(n.remove)
	n.Run()
	n.bootstrap(namespaces)
	return n
}

// Run starts the agent, again if it was killed.
func (n *Nomad) Run() {
	n.t.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "nomad.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must.NoError(n.t, err)
	defer log.Close()
	n.command = exec.Command(statetest.Program(n.t, "nomad"), "agent", "-config", filepath.Join(n.dir, "nomad.hcl"),
		"-config", filepath.Join(n.dir, "more.hcl"))
	n.command.Stdout, n.command.Stderr = log, log
	n.command.Env = append(os.Environ(), "AWS_CA_BUNDLE=")
	n.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.NoError(n.t, n.command.Start())
}

func (n *Nomad) bootstrap(namespaces []string) {
	n.t.Helper()
	client := n.Client("")
	n.await("acl bootstrap", func() error {
		token, _, err := client.ACLTokens().Bootstrap(nil)
		if err == nil {
			n.Token = token.SecretID
		}
		return err
	})
	client = n.Client(n.Token)
	_, err := client.ACLPolicies().Upsert(&api.ACLPolicy{Name: "member", Rules: Policy}, nil)
	must.NoError(n.t, err)
	token, _, err := client.ACLTokens().Create(&api.ACLToken{Name: "member", Type: "client", Policies: []string{"member"}}, nil)
	must.NoError(n.t, err)
	n.TokenFile = filepath.Join(n.dir, "token")
	must.NoError(n.t, os.WriteFile(n.TokenFile, []byte(token.SecretID+"\n"), 0o600))
	for _, name := range namespaces {
		_, err = client.Namespaces().Register(&api.Namespace{Name: name}, nil)
		must.NoError(n.t, err)
	}
	n.AwaitNode()
}

// AwaitNode waits until the node is ready.
func (n *Nomad) AwaitNode() {
	n.t.Helper()
	client := n.Client(n.Token)
	n.await("node", func() error {
		nodes, _, err := client.Nodes().List(nil)
		if err != nil {
			return err
		}
		if len(nodes) == 0 || nodes[0].Status != api.NodeStatusReady || nodes[0].Drivers["raw_exec"] == nil {
			return fmt.Errorf("the node is not ready")
		}
		return nil
	})
}

func (n *Nomad) await(what string, try func() error) {
	n.t.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("nomad's %s is not ready after %s: %v", what, soon, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Client returns a client with a token.
func (n *Nomad) Client(token string) *api.Client {
	n.t.Helper()
	client, err := api.NewClient(&api.Config{Address: n.Address, SecretID: token})
	must.NoError(n.t, err)
	n.t.Cleanup(client.Close)
	return client
}

// Kill ends the agent as a power cut would; its tasks go on.
func (n *Nomad) Kill() {
	_ = n.command.Process.Kill()
	_ = n.command.Wait()
}

// remove stops all jobs, the agent, and what it mounted.
func (n *Nomad) remove() {
	if n.command.ProcessState == nil && n.Token != "" {
		n.stopJobs()
	}
	if n.t.Failed() {
		text, _ := os.ReadFile(filepath.Join(n.dir, "nomad.log"))
		n.t.Logf("nomad's log:\n%.6000s", text)
	}
	n.Kill()
	n.killHelpers()
	mounts, _ := filepath.Glob(filepath.Join(n.dir, "data", "alloc", "*", "*", "*"))
	for _, path := range mounts {
		_ = syscall.Unmount(path, syscall.MNT_DETACH) // EINVAL where nothing is mounted
	}
	_ = os.RemoveAll(n.dir)
}

// killHelpers ends raw_exec's helpers and log collectors, which outlive an agent that was killed.
func (n *Nomad) killHelpers() {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		executor := bytes.Contains(text, []byte("executor")) && bytes.Contains(text, []byte(n.dir+"/"))
		if executor || bytes.HasSuffix(text, []byte("\x00logmon\x00")) && n.holds(filepath.Dir(file)) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// holds says whether a process has a file of this agent's open.
func (n *Nomad) holds(proc string) bool {
	links, _ := filepath.Glob(filepath.Join(proc, "fd", "*"))
	return slices.ContainsFunc(links, func(link string) bool {
		file, _ := os.Readlink(link)
		return strings.HasPrefix(file, n.dir+"/")
	})
}

func (n *Nomad) stopJobs() {
	client := n.Client(n.Token)
	all := &api.QueryOptions{Namespace: "*"}
	jobs, _, _ := client.Jobs().List(all)
	for _, job := range jobs {
		_, _, _ = client.Jobs().Deregister(job.ID, true, &api.WriteOptions{Namespace: job.Namespace})
	}
	n.await("end of its tasks", func() error {
		allocations, _, err := client.Allocations().List(all)
		for _, a := range allocations {
			if a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending {
				return fmt.Errorf("allocation %s is %s", a.ID, a.ClientStatus)
			}
		}
		return err
	})
}
