package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"

	"pangaea/e2e/nvmlsim"
)

// endpoint is where an agent listens: an address on loopback of its own, so that no other test and no ephemeral port can
// take a port between its choice and the agent's start.
type endpoint struct {
	host            string
	http, rpc, serf int
}

func newEndpoint() (endpoint, error) {
	e := endpoint{host: fmt.Sprintf("127.%d.%d.%d", 16+rand.IntN(200), rand.IntN(256), 1+rand.IntN(254))} //nolint:gosec // to be apart from others, not secret
	for _, port := range []*int{&e.http, &e.rpc, &e.serf} {
		listener, err := net.Listen("tcp", e.host+":0")
		if err != nil {
			return e, fmt.Errorf("cannot find a free port: %w", err)
		}
		defer listener.Close()
		address, ok := listener.Addr().(*net.TCPAddr)
		if !ok {
			return e, errors.New("internal error: a TCP listener without a TCP address")
		}
		*port = address.Port
	}
	return e, nil
}

func (e endpoint) url() string { return fmt.Sprintf("http://%s:%d", e.host, e.http) }

const agentConfig = `
name       = %[1]q
region     = "global"
datacenter = "dc1"
data_dir   = %[2]q
bind_addr  = %[3]q
log_level  = "DEBUG"
ports {
  http = %[4]d
  rpc  = %[5]d
  serf = %[6]d
}
advertise {
  http = %[3]q
  rpc  = %[3]q
  serf = %[3]q
}
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
leave_on_terminate   = false
disable_update_check = true
`

// serverConfig lets a client be down for as long as a test likes.
const serverConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
  heartbeat_grace  = "15m"
}
`

const clientConfig = `
plugin_dir = %[1]q
client {
  enabled           = true
  servers           = ["%[2]s"]
  network_interface = "lo"
  cni_path          = "/usr/lib/cni"
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "runc,raw_exec,exec"
  }
}
plugin "pangaea-driver" {
  config {
    state_dir           = %[3]q
    driver_root         = %[4]q
    holds_dir           = %[10]q
    insecure_registries = ["%[5]s"]
    egress {
      %[11]s
    }
    %[6]s
  }
}
plugin "pangaea-device" {
  config {
    library_path = %[7]q
    control_dir  = %[8]q
    holds_dir    = %[10]q
    %[9]s
  }
}
`

const runscConfig = `
    runtime "runsc" {
      kind = "runsc"
      path = %q
    }
`

// configure makes the node's directories, its programs, its simulated GPUs and the agents' configuration.
func (n *Node) configure(ctx context.Context) error {
	for _, dir := range []string{"bin", "plugins", "logs"} {
		err := os.Mkdir(filepath.Join(n.Dir, dir), 0o711)
		if err != nil {
			return fmt.Errorf("cannot make the node's directory: %w", err)
		}
	}
	// Nomad makes its data directory for root alone; so do we, before it looks.
	for _, dir := range []string{n.data("server"), n.data("client"), n.StateDir()} {
		err := os.Mkdir(dir, 0o700)
		if err != nil {
			return fmt.Errorf("cannot make the node's directory: %w", err)
		}
	}
	err := n.Install(n.tools.bin)
	if err != nil {
		return err
	}
	err = n.linkPlugins()
	if err != nil {
		return err
	}
	root, library := "", filepath.Join(n.Dir, "no-gpus")
	if len(n.options.GPUs.GPUs) > 0 {
		root = filepath.Join(n.Dir, "driver-root")
		err = n.SetGPUs(n.options.GPUs)
		if err != nil {
			return err
		}
		library, err = nvmlsim.MakeDriverRoot(ctx, root, n.gpuState(), n.options.GPUs)
		if err != nil {
			return err
		}
	}
	return n.writeConfig(root, library)
}

// linkPlugins offers our program under the names of its two plugins, and those of others.
func (n *Node) linkPlugins() error {
	own := filepath.Join(n.Dir, "bin", "pangaea")
	links := map[string]string{"pangaea-driver": own, "pangaea-device": own}
	for _, plugin := range n.options.Plugins {
		path, err := filepath.Abs(plugin)
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", plugin, err)
		}
		links[filepath.Base(path)] = path
	}
	for name, program := range links {
		err := os.Symlink(program, filepath.Join(n.Dir, "plugins", name))
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", name, err)
		}
	}
	return nil
}

func (n *Node) writeConfig(driverRoot, library string) error {
	var err error
	n.at, err = newEndpoint()
	if err != nil {
		return err
	}
	n.clientAt, err = newEndpoint()
	if err != nil {
		return err
	}
	agent := func(role string, e endpoint) string {
		return fmt.Sprintf(agentConfig, "node-"+filepath.Base(n.Dir)+"-"+role, n.data(role), e.host, e.http, e.rpc, e.serf)
	}
	driver := n.options.Driver
	if n.options.Runsc {
		driver += fmt.Sprintf(runscConfig, n.tools.runsc)
	}
	files := map[string]string{
		"server.hcl": agent("server", n.at) + serverConfig,
		"client.hcl": agent("client", n.clientAt) + fmt.Sprintf(clientConfig, filepath.Join(n.Dir, "plugins"),
			fmt.Sprintf("%s:%d", n.at.host, n.at.rpc), n.StateDir(), driverRoot, n.Registry.Address(), driver, library,
			filepath.Join(n.Dir, "device"), strings.ReplaceAll(n.options.Device, "AGENT", n.clientAt.url()), filepath.Join(n.Dir, "holds"),
			cmp.Or(n.options.Egress, "disabled = true")),
		// Files that come later win.
		"server-test.hcl": n.options.Server,
		"client-test.hcl": n.options.Client,
	}
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o600))
	}
	if err != nil {
		return fmt.Errorf("cannot configure the agents: %w", err)
	}
	return nil
}

// Install puts the programs of a directory into the place of the node's own, each in one step, as an upgrade does.
// Running processes keep what they run.
func (n *Node) Install(from string) error {
	for _, name := range programs() {
		place := filepath.Join(n.Dir, "bin", name)
		err := copyFile(filepath.Join(from, name), place+".new")
		if err == nil {
			err = os.Rename(place+".new", place)
		}
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", name, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

func (n *Node) data(role string) string { return filepath.Join(n.Dir, role) }

// StateDir is the driver's state_dir.
func (n *Node) StateDir() string { return filepath.Join(n.Dir, "tasks") }

func (n *Node) gpuState() string { return filepath.Join(n.Dir, nvmlsim.StateFile) }

// SetGPUs changes what the simulated GPUs are doing, while everything runs.
func (n *Node) SetGPUs(state nvmlsim.State) error { return nvmlsim.WriteState(n.gpuState(), state) }
