package devpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/nvmlsim"
)

// Member describes one member of the pool to start.
type Member struct {
	Alias, Country, Continent, Region string
	Price                             float64       // of one GPU for one hour
	Model                             nvmlsim.Model // of its GPUs, when they are simulated
	Count                             int           // of its GPUs, when they are simulated
}

// Cluster is one member: a Nomad cluster of one node that serves and runs work, and its member agent.
type Cluster struct {
	Member
	Address string        // IP address of its node
	Token   string        // management token of its own Nomad
	GPUs    nvmlsim.State // what they are doing, when they are simulated

	AgentConfig string // what the member agent was configured with

	index     int
	dir       string // of the cluster
	pool      *Pool
	server    *process // Nomad's
	client    *process // Nomad's
	agent     *process // ours
	statePath string   // the NVML simulator's state file
}

// Both agents of a cluster: the server, which is what the member agent and the owner talk to, and one client.
const agentConfig = `
name       = %[1]q
region     = "global"
datacenter = "dc1"
data_dir   = %[2]q
bind_addr  = "0.0.0.0"
advertise {
  http = %[3]q
  rpc  = %[3]q
  serf = %[3]q
}
acl { enabled = true }
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
leave_on_terminate   = false
disable_update_check = true
`

// serverConfig lets a client be silent for as long as a test, or a busy machine, likes.
const serverConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
  heartbeat_grace  = "15m"
}
`

const clientConfig = `
plugin_dir = %[1]q
ports {
  http = 5646
  rpc  = 5647
  serf = 5648
}
client {
  enabled           = true
  servers           = ["%[2]s:4647"]
  network_interface = "eth0"
  cni_path          = "/usr/lib/cni"
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "runc,exec"
  }
}
plugin "pangaea-driver" {
  config {
    state_dir           = %[3]q
    driver_root         = %[4]q
    holds_dir           = %[8]q
    insecure_registries = ["%[5]s:5000"]
  }
}
plugin "pangaea-device" {
  config {
    library_path = %[6]q
    control_dir  = %[7]q
    holds_dir    = %[8]q
  }
}
`

// benchConfig is what measuring needs besides: when each step was done, and for the exec driver a file system that does
// not take it seconds to link.
const benchConfig = `
log_level = "TRACE"
client {
  chroot_env { "/bin/busybox" = "/bin/busybox" }
}
`

// agentPolicy is what a member's owner grants the member agent in the member's own Nomad: its namespaces, the nodes'
// metadata, and to see, but not touch, what else uses the nodes.
const agentPolicy = `
namespace "pool-*" {
  policy = "write"
  variables { path "*" { capabilities = ["list", "read", "write", "destroy"] } }
}
namespace "*" { capabilities = ["list-jobs", "read-job"] }
node  { policy = "write" }
agent { policy = "read" }
`

// startServer starts the cluster's Nomad server and waits until it leads and can sign nodes' identities.
func (c *Cluster) startServer(ctx context.Context) error {
	var err error
	c.server, err = c.startAgent("server")
	if err != nil {
		return err
	}
	return c.server.await(ctx, c.Alias+"'s Nomad server leads", func(ctx context.Context) error {
		var keys struct{ Keys []json.RawMessage }
		err := callJSON(ctx, http.MethodGet, c.url("/.well-known/jwks.json"), nil, nil, &keys)
		if err == nil && len(keys.Keys) == 0 {
			return errors.New("it has no key yet")
		}
		return err
	})
}

// startClient starts the cluster's Nomad client with the plugins.
func (c *Cluster) startClient(context.Context) error {
	var err error
	c.client, err = c.startAgent("client")
	return err
}

func (c *Cluster) startAgent(role string) (*process, error) {
	return start(c.pool.dir, command{
		name:  c.Alias + "-" + role,
		netns: netnsPath(c.Alias),
		argv:  []string{c.pool.Tools.Nomad, "agent", "-config", filepath.Join(c.dir, role+".hcl")},
	})
}

// awaitNode waits until the cluster's node can run tasks.
func (c *Cluster) awaitNode(ctx context.Context) error {
	return c.client.await(ctx, c.Alias+"'s node is ready", func(ctx context.Context) error {
		var nodes []*api.NodeListStub
		err := callJSON(ctx, http.MethodGet, c.url("/v1/nodes?resources=true"), c.header(), nil, &nodes)
		if err != nil {
			return err
		}
		if len(nodes) == 0 || nodes[0].Status != api.NodeStatusReady {
			return fmt.Errorf("it is not registered yet")
		}
		driver := nodes[0].Drivers["runc"]
		if driver == nil || !driver.Healthy {
			return fmt.Errorf("driver runc is not healthy: %+v", driver)
		}
		return nil
	})
}

// bootstrap makes the cluster's ACL tokens and the namespace that pool jobs run in.
func (c *Cluster) bootstrap(ctx context.Context) error {
	var token api.ACLToken
	err := c.server.await(ctx, c.Alias+"'s ACL system is bootstrapped", func(ctx context.Context) error {
		return callJSON(ctx, http.MethodPut, c.url("/v1/acl/bootstrap"), nil, nil, &token)
	})
	if err != nil {
		return err
	}
	c.Token = token.SecretID
	policy := api.ACLPolicy{Name: "pangaea-member", Rules: agentPolicy}
	err = callJSON(ctx, http.MethodPut, c.url("/v1/acl/policy/pangaea-member"), c.header(), policy, nil)
	if err != nil {
		return fmt.Errorf("cannot make the member agent's policy: %w", err)
	}
	namespace := api.Namespace{Name: "pool-default", Description: "Jobs of the pool"}
	err = callJSON(ctx, http.MethodPut, c.url("/v1/namespace/pool-default"), c.header(), namespace, nil)
	if err != nil {
		return fmt.Errorf("cannot make the namespace pool-default: %w", err)
	}
	request := api.ACLToken{Name: "member agent", Type: "client", Policies: []string{"pangaea-member"}}
	var agent api.ACLToken
	err = callJSON(ctx, http.MethodPut, c.url("/v1/acl/token"), c.header(), request, &agent)
	if err != nil {
		return fmt.Errorf("cannot make the member agent's token: %w", err)
	}
	return os.WriteFile(filepath.Join(c.dir, "nomad.token"), []byte(agent.SecretID), 0o600)
}

func (c *Cluster) url(path string) string { return "http://" + c.Address + ":4646" + path }

func (c *Cluster) header() map[string]string { return map[string]string{"X-Nomad-Token": c.Token} }

// API is a client of the cluster's own Nomad, with its owner's token.
func (c *Cluster) API() (*api.Client, error) {
	return api.NewClient(&api.Config{Address: c.url(""), SecretID: c.Token})
}
