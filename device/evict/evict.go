package evict

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Nomad is the agent on this machine.
type Nomad struct {
	Address   string // empty: NOMAD_ADDR, or http://127.0.0.1:4646
	TokenFile string // empty: no ACLs
}

// Stop stops all allocations on this node that hold one of the devices, and returns their IDs. Those that are being
// stopped already are left alone. An error about one does not keep the others.
func (n Nomad) Stop(ctx context.Context, devices []string) ([]string, error) {
	client, err := n.client()
	if err != nil {
		return nil, err
	}
	node, err := nodeID(client)
	if err != nil {
		return nil, err
	}
	query := (&api.QueryOptions{}).WithContext(ctx)
	allocs, _, err := client.Nodes().Allocations(node, query)
	if err != nil {
		return nil, fmt.Errorf("cannot list this node's allocations (the token needs node:read): %w", err)
	}
	var stopped []string
	var failed error
	for _, alloc := range allocs {
		if alloc.DesiredStatus != api.AllocDesiredStatusRun || alloc.ClientTerminalStatus() || !holds(alloc, devices) {
			continue
		}
		_, err = client.Allocations().Stop(alloc, (&api.QueryOptions{Namespace: alloc.Namespace}).WithContext(ctx))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot stop allocation %s (the token needs alloc-lifecycle in %s): %w", alloc.ID, alloc.Namespace, err))
			continue
		}
		stopped = append(stopped, alloc.ID)
	}
	return stopped, failed
}

// client is made anew each time, as the token may have been replaced.
func (n Nomad) client() (*api.Client, error) {
	config := api.DefaultConfig()
	if n.Address != "" {
		config.Address = n.Address
	}
	if n.TokenFile != "" {
		token, err := os.ReadFile(n.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the token for evictions: %w", err)
		}
		config.SecretID = strings.TrimSpace(string(token))
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("cannot speak to Nomad at %s: %w", config.Address, err)
	}
	return client, nil
}

// nodeID is this machine's, which the agent knows.
func nodeID(client *api.Client) (string, error) {
	self, err := client.Agent().Self()
	if err != nil {
		return "", fmt.Errorf("cannot ask the Nomad agent who it is (the token needs agent:read): %w", err)
	}
	id := self.Stats["client"]["node_id"]
	if id == "" {
		return "", errors.New("cannot evict: the Nomad agent asked is not a client")
	}
	return id, nil
}

func holds(alloc *api.Allocation, devices []string) bool {
	if alloc.AllocatedResources == nil {
		return false
	}
	for _, task := range alloc.AllocatedResources.Tasks {
		for _, d := range task.Devices {
			if d.Vendor == "nvidia" && slices.ContainsFunc(d.DeviceIDs, func(id string) bool { return slices.Contains(devices, id) }) {
				return true
			}
		}
	}
	return false
}
