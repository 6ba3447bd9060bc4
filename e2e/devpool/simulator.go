package devpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pangaea/e2e/nvmlsim"
)

// realDriver is there when the machine has an NVIDIA kernel driver.
const realDriver = "/proc/driver/nvidia/version"

// Simulated tells whether the pool's GPUs are simulated, because this machine has no NVIDIA driver.
func Simulated() bool {
	_, err := os.Stat(realDriver)
	return err != nil
}

// configure makes the cluster's directories, its simulated GPUs and its Nomad configuration.
func (c *Cluster) configure(ctx context.Context) error {
	err := os.MkdirAll(filepath.Join(c.dir, "plugins"), 0o711)
	if err != nil {
		return fmt.Errorf("cannot make its directory: %w", err)
	}
	for _, plugin := range []string{"pangaea-driver", "pangaea-device"} {
		err = os.Symlink(filepath.Join(c.pool.Tools.Bin, "pangaea"), filepath.Join(c.dir, "plugins", plugin))
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", plugin, err)
		}
	}
	root, library := "", ""
	if Simulated() {
		root = filepath.Join(c.dir, "driver-root")
		library, err = c.simulate(ctx, root)
		if err != nil {
			return err
		}
	}
	server := fmt.Sprintf(agentConfig, c.Alias, filepath.Join(c.dir, "server"), c.Address) + serverConfig
	client := fmt.Sprintf(agentConfig, c.Alias+"-gpu-1", filepath.Join(c.dir, "client"), c.Address) +
		fmt.Sprintf(clientConfig, filepath.Join(c.dir, "plugins"), c.Address, filepath.Join(c.dir, "tasks"), root, BridgeAddress, library, filepath.Join(c.dir, "device"), filepath.Join(c.dir, "holds"))
	if c.pool.Bench {
		client += benchConfig
	}
	return errors.Join(
		os.WriteFile(filepath.Join(c.dir, "server.hcl"), []byte(server), 0o600),
		os.WriteFile(filepath.Join(c.dir, "client.hcl"), []byte(client), 0o600),
	)
}

// simulate makes the cluster's GPUs: the state that the simulator reads and a driver installation below root.
func (c *Cluster) simulate(ctx context.Context, root string) (library string, err error) {
	c.GPUs = nvmlsim.Host(c.Alias, c.Model, c.Count)
	c.statePath = filepath.Join(c.dir, nvmlsim.StateFile)
	err = nvmlsim.WriteState(c.statePath, c.GPUs)
	if err != nil {
		return "", err
	}
	return nvmlsim.MakeDriverRoot(ctx, root, c.statePath, c.GPUs)
}

// SetGPUs changes what the cluster's GPUs are doing, while everything runs.
func (c *Cluster) SetGPUs(state nvmlsim.State) error {
	c.GPUs = state
	return nvmlsim.WriteState(c.statePath, state)
}

// AddGPU plugs one more GPU of the cluster's model in.
func (c *Cluster) AddGPU(ctx context.Context) error {
	state := nvmlsim.Host(c.Alias, c.Model, len(c.GPUs.GPUs)+1)
	_, err := nvmlsim.MakeDriverRoot(ctx, filepath.Join(c.dir, "driver-root"), c.statePath, state)
	if err != nil {
		return err
	}
	return c.SetGPUs(state)
}

// hardware names the cluster's GPUs for the user.
func (c *Cluster) hardware() string {
	if !Simulated() {
		return "this machine's GPUs"
	}
	return fmt.Sprintf("%d x %s (simulated: no NVIDIA driver on this machine)", c.Count, c.Model.Name)
}
