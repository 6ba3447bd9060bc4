package devpool

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"pangaea/e2e/nvmlsim"
	"path/filepath"

	"github.com/hashicorp/nomad/api"
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
	Address string // IP address of its node
	Token   string // management token of its own Nomad
	GPUs    nvmlsim.State

	index     int
	dir       string // of the cluster
	pool      *Pool
	nomad     *process
	agent     *process
	statePath string // the NVML simulator's state file
}

const nomadConfig = `
name       = %[1]q
region     = "global"
datacenter = "dc1"
data_dir   = %[2]q
plugin_dir = %[3]q
bind_addr  = "0.0.0.0"
advertise {
  http = %[4]q
  rpc  = %[4]q
  serf = %[4]q
}
acl { enabled = true }
server {
  enabled          = true
  bootstrap_expect = 1
  heartbeat_grace  = "2s"
  min_heartbeat_ttl = "3s"
}
client {
  enabled           = true
  network_interface = "eth0"
  cni_path          = "/usr/lib/cni"
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "runc,exec,raw_exec"
  }
}
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
leave_on_terminate     = false
disable_update_check   = true
telemetry { disable_hostname = true }
plugin "pangaea-driver" {
  config {
    state_dir           = %[5]q
    driver_root         = %[6]q
    nvml_library        = %[8]q
    insecure_registries = ["%[7]s:5000"]
  }
}
plugin "pangaea-device" {
  config {
    library_path = %[8]q
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

// startNomad starts the cluster's Nomad and waits until its node is ready.
func (c *Cluster) startNomad(ctx context.Context) error {
	config := filepath.Join(c.dir, "nomad.hcl")
	var err error
	c.nomad, err = start(c.pool.dir, command{
		name:  c.Alias + "-nomad",
		netns: netnsPath(c.Alias),
		argv:  []string{c.pool.Tools.Nomad, "agent", "-config", config},
	})
	if err != nil {
		return err
	}
	return c.nomad.await(ctx, c.Alias+"'s Nomad has a leader", func(ctx context.Context) error {
		return callJSON(ctx, http.MethodGet, c.url("/v1/status/leader"), nil, nil, nil)
	})
}

// awaitNode waits until the cluster's node can run tasks.
func (c *Cluster) awaitNode(ctx context.Context) error {
	return c.nomad.await(ctx, c.Alias+"'s node is ready", func(ctx context.Context) error {
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
	err := c.nomad.await(ctx, c.Alias+"'s ACL system is bootstrapped", func(ctx context.Context) error {
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
