package evict

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// Holder is a task that has one of the devices until its allocation has ended.
type Holder struct{ AllocID, Task, Namespace, JobID string }

// Stop stops all allocations on this node that hold one of the devices, or a share of one. It returns all tasks that hold one, those that are
// being stopped already among them, or nil if Nomad did not tell; and the IDs of the allocations that it stopped. An error
// about one does not keep the others.
func (n Nomad) Stop(ctx context.Context, devices []string) (holders []Holder, stopped []string, failed error) {
	client, err := n.client()
	if err != nil {
		return nil, nil, err
	}
	node, err := nodeID(client)
	if err != nil {
		return nil, nil, err
	}
	query := (&api.QueryOptions{}).WithContext(ctx)
	allocs, _, err := client.Nodes().Allocations(node, query)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list this node's allocations (the token needs node:read): %w", err)
	}
	holders = []Holder{}
	for _, alloc := range allocs {
		if alloc.ClientTerminalStatus() {
			continue
		}
		have := holding(alloc, devices)
		holders = append(holders, have...)
		if len(have) == 0 || alloc.DesiredStatus != api.AllocDesiredStatusRun {
			continue
		}
		_, err = client.Allocations().Stop(alloc, (&api.QueryOptions{Namespace: alloc.Namespace}).WithContext(ctx))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot stop allocation %s (the token needs alloc-lifecycle in %s): %w", alloc.ID, alloc.Namespace, err))
			continue
		}
		stopped = append(stopped, alloc.ID)
	}
	return holders, stopped, failed
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

// holding are the allocation's tasks that have one of the devices.
func holding(alloc *api.Allocation, devices []string) []Holder {
	if alloc.AllocatedResources == nil {
		return nil
	}
	granted := func(id string) bool {
		card, _, _ := strings.Cut(id, "::") // a share of one is called GPU-...::0, whatever may be shared now
		return slices.Contains(devices, card)
	}
	var all []Holder
	for _, name := range slices.Sorted(maps.Keys(alloc.AllocatedResources.Tasks)) {
		for _, d := range alloc.AllocatedResources.Tasks[name].Devices {
			if d.Vendor == "nvidia" && slices.ContainsFunc(d.DeviceIDs, granted) {
				all = append(all, Holder{AllocID: alloc.ID, Task: name, Namespace: alloc.Namespace, JobID: alloc.JobID})
				break
			}
		}
	}
	return all
}
