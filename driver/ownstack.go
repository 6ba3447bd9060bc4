package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/addresses"
)

// networkFile keeps, in a task's directory, what its network namespace had before the task took it over.
const networkFile = "network.json"

// takesNetwork tells whether a task's own network stack takes a namespace's addresses over.
func (s *startup) takesNetwork() bool { return s.plan.Netns != "" && s.ownStack() }

func (s *startup) ownStack() bool {
	r := s.conf.Runtimes[s.runtime]
	return r.Kind == kindRunsc && !r.AllowHostStack
}

// claimNetwork notes who uses the group's network. Who takes it over must be alone in it: the others would lose their
// address.
func (s *startup) claimNetwork() error {
	if s.plan.Netns == "" || s.plan.Netns == netnsPath(s.dir) {
		// A network of the task's own is nobody else's, and ends with it.
		return nil
	}
	taken := s.takesNetwork()
	err := s.d.claimNetwork(s.cfg, taken)
	if err != nil {
		return err
	}
	s.undone("cannot release the group's network", func() error { s.d.releaseNetwork(s.cfg.ID); return nil })
	if !taken {
		return nil
	}
	network, err := addresses.Read(s.plan.Netns)
	if err != nil {
		return err
	}
	text, err := json.Marshal(network)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, networkFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note the group's addresses: %w", err)
	}
	return nil
}

// networkUse is a task in a group's network.
type networkUse struct {
	path  string
	taken bool
}

func (d *Driver) claimNetwork(cfg *drivers.TaskConfig, taken bool) error {
	path := groupNetwork(cfg)
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, use := range d.networks {
		if use.path == path && id != cfg.ID && (use.taken || taken) {
			return errors.New("cannot share the group's network: a task under gVisor has a network stack of its own, which takes the group's addresses for itself; " +
				"put it into a group of its own, or let the operator set allow_host_stack for its runtime")
		}
	}
	d.networks[cfg.ID] = networkUse{path, taken}
	return nil
}

func (d *Driver) releaseNetwork(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.networks, id)
}

// reclaimNetwork notes what a recovered task uses.
func (d *Driver) reclaimNetwork(cfg *drivers.TaskConfig, dir string) {
	if groupNetwork(cfg) == "" {
		return
	}
	_, err := os.Stat(filepath.Join(dir, networkFile))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.networks[cfg.ID] = networkUse{groupNetwork(cfg), err == nil}
}

// returnNetwork gives a namespace back what a task that has ended took over.
func returnNetwork(dir string) error {
	path := filepath.Join(dir, networkFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var network addresses.Network
	if err == nil {
		err = json.Unmarshal(text, &network)
	}
	if err == nil {
		err = network.Restore()
	}
	if err != nil {
		return fmt.Errorf("cannot give the group's network its addresses back: %w", err)
	}
	return os.Remove(path)
}
