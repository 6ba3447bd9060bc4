package devpool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/state"
)

const gatewayConfig = `
bind_addr = "127.0.0.1"
addresses { tunnel = %[1]q }
consul {
  address    = "http://127.0.0.1:8500"
  token_file = %[2]q
}
# One machine is all members' here: all are silent while it does something else.
clocks { suspect_after = "12s" }
`

const memberConfig = `
alias     = %[1]q
country   = %[2]q
continent = %[3]q
region    = %[4]q
price     = %[5]g
gateways  = ["%[6]s:4649"]
consul {
  address    = "http://%[6]s:8500"
  token_file = %[7]q
}
nomad {
  address    = "http://%[8]s:4646"
  token_file = %[9]q
}
relay {
  bind_addr = %[8]q
}
`

// startGateway starts the pool's gateway and waits until it leads.
func (p *Pool) startGateway(ctx context.Context) error {
	token, err := p.consul.tokenFor(ctx, "pangaea-gateway", state.PolicyGateway())
	if err != nil {
		return err
	}
	p.GatewayConfig = fmt.Sprintf(gatewayConfig, BridgeAddress, token)
	err = os.WriteFile(filepath.Join(p.dir, "gateway.hcl"), []byte(p.GatewayConfig), 0o600)
	if err != nil {
		return fmt.Errorf("cannot configure the gateway: %w", err)
	}
	return p.RunGateway(ctx)
}

// RunGateway starts the gateway, again if it was killed, and waits until it leads.
func (p *Pool) RunGateway(ctx context.Context) error {
	var err error
	p.gateway, err = start(p.dir, command{
		name: "gateway",
		argv: []string{filepath.Join(p.Tools.Bin, "pangaea"), "gateway", "-config", filepath.Join(p.dir, "gateway.hcl")},
	})
	if err != nil {
		return err
	}
	return p.gateway.await(ctx, "the gateway leads the pool", func(ctx context.Context) error {
		var leader string
		err := callJSON(ctx, http.MethodGet, Address+"/v1/status/leader", nil, nil, &leader)
		if err == nil && leader == "" {
			return fmt.Errorf("no gateway leads yet")
		}
		return err
	})
}

// KillGateway kills the gateway with SIGKILL.
func (p *Pool) KillGateway() error { return p.gateway.kill() }

// StartAgent starts the cluster's member agent.
func (c *Cluster) StartAgent(ctx context.Context) error {
	token, err := c.pool.memberToken(ctx, c.Alias)
	if err != nil {
		return err
	}
	c.AgentConfig = fmt.Sprintf(memberConfig, c.Alias, c.Country, c.Continent, c.Region, c.Price, BridgeAddress, token, c.Address,
		filepath.Join(c.dir, "nomad.token"))
	err = os.WriteFile(filepath.Join(c.dir, "member.hcl"), []byte(c.AgentConfig), 0o600)
	if err != nil {
		return fmt.Errorf("cannot configure the member agent of %s: %w", c.Alias, err)
	}
	return c.RunAgent()
}

// RunAgent starts the cluster's member agent, again if it was killed.
func (c *Cluster) RunAgent() error {
	var err error
	c.agent, err = start(c.pool.dir, command{
		name:  c.Alias + "-member",
		netns: netnsPath(c.Alias),
		argv:  []string{filepath.Join(c.pool.Tools.Bin, "pangaea"), "member", "-config", filepath.Join(c.dir, "member.hcl")},
	})
	return err
}

// AwaitMembers waits until the gateway shows the nodes of all running members with their place.
func (p *Pool) AwaitMembers(ctx context.Context) error {
	client, err := p.API()
	if err != nil {
		return err
	}
	return p.gateway.await(ctx, "all members have joined", func(ctx context.Context) error {
		nodes, _, err := client.Nodes().List((&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		if len(nodes) < len(p.Clusters) {
			return fmt.Errorf("%d of %d nodes are there", len(nodes), len(p.Clusters))
		}
		for _, node := range nodes {
			if node.Status != api.NodeStatusReady {
				return fmt.Errorf("node %s is %s", node.Name, node.Status)
			}
			full, _, err := client.Nodes().Info(node.ID, (&api.QueryOptions{}).WithContext(ctx))
			if err != nil {
				return err
			}
			if full.Meta["pool.country"] == "" || len(full.NodeResources.Devices) == 0 {
				return fmt.Errorf("node %s has no place or no GPU yet", node.Name)
			}
		}
		return nil
	})
}

// Kill kills the cluster's Nomad and member agent with SIGKILL. Its tasks run on: they are in sandboxes that outlive
// their agents.
func (c *Cluster) Kill() error {
	return errors.Join(c.agent.kill(), c.server.kill(), c.client.kill())
}

// PowerOff kills everything of the cluster with SIGKILL, its tasks too.
func (c *Cluster) PowerOff() error {
	return errors.Join(c.Kill(), killBelow(c.dir))
}

// Revive starts the cluster's Nomad and its member agent again.
func (c *Cluster) Revive(ctx context.Context) error {
	err := c.startServer(ctx)
	if err != nil {
		return err
	}
	err = c.startClient(ctx)
	if err != nil {
		return err
	}
	return c.RunAgent()
}

// AwaitIdle waits until no allocation of a job is left running on any member.
func (p *Pool) AwaitIdle(ctx context.Context, job string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, cluster := range p.Clusters {
		err := cluster.awaitIdle(ctx, job)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) awaitIdle(ctx context.Context, job string) error {
	client, err := c.API()
	if err != nil {
		return err
	}
	return c.server.await(ctx, job+" has left "+c.Alias, func(ctx context.Context) error {
		allocations, _, err := client.Allocations().List((&api.QueryOptions{Namespace: "*"}).WithContext(ctx))
		if err != nil {
			return err
		}
		for _, a := range allocations {
			if a.JobID == job && (a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending) {
				return fmt.Errorf("allocation %s is %s", a.ID, a.ClientStatus)
			}
		}
		return nil
	})
}

// Running tells whether the cluster's Nomad server and client run.
func (c *Cluster) Running() bool {
	return c.server != nil && c.server.dead() == nil && c.client != nil && c.client.dead() == nil
}

// KillClientAndPlugins kills the cluster's Nomad client and its plugins with SIGKILL and leaves the rest running.
func (c *Cluster) KillClientAndPlugins() error {
	err := c.client.kill()
	if err != nil {
		return err
	}
	pids, err := processesBelow(filepath.Join(c.dir, "plugins"))
	if err != nil {
		return err
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return nil
}

// SignalTask sends a signal to an allocation's only task, and returns when its process is gone.
func (c *Cluster) SignalTask(allocation string, signal syscall.Signal) error {
	groups, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, group := range groups {
		text, _ := os.ReadFile(group)
		var pid int
		_, err := fmt.Sscanf(group, "/proc/%d/cgroup", &pid)
		if err != nil || !bytes.Contains(text, []byte(allocation)) {
			continue
		}
		who := identity(pid)
		for deadline := time.Now().Add(patience); identity(pid) == who; time.Sleep(20 * time.Millisecond) {
			_ = syscall.Kill(pid, signal) // the kernel drops those that the first process of a sandbox does not take yet
			if time.Now().After(deadline) {
				return fmt.Errorf("the task of %s does not end", allocation)
			}
		}
		return nil
	}
	return fmt.Errorf("allocation %s has no process", allocation)
}

// ReviveClient starts the cluster's Nomad client again.
func (c *Cluster) ReviveClient(ctx context.Context) error {
	err := c.startClient(ctx)
	if err != nil {
		return err
	}
	return c.awaitNode(ctx)
}

// AwaitStopped waits until the cluster's own Nomad wants nothing of a job any more and runs nothing of it.
func (c *Cluster) AwaitStopped(ctx context.Context, job string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.awaitIdle(ctx, job)
}

// Logs reads what a task of an allocation printed, from the cluster's own Nomad.
func (c *Cluster) Logs(ctx context.Context, allocation, task string) (string, error) {
	cmd := exec.CommandContext(ctx, c.pool.Tools.Nomad, "alloc", "logs", "-namespace", "pool-default", "-task", task, allocation)
	cmd.Env = append(environment(), "NOMAD_ADDR="+c.url(""), "NOMAD_TOKEN="+c.Token)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot read the logs of %s on %s: %w: %s", allocation, c.Alias, err, output)
	}
	return string(output), nil
}
