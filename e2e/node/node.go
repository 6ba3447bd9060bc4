package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/registry"
)

// Node is a running Nomad of one server and one client.
type Node struct {
	// Dir holds everything of the node's.
	Dir string
	// Registry is where its tasks may get images from.
	Registry *registry.Registry

	options      Options
	tools        tools
	at, clientAt endpoint
	api          *api.Client
	server       *agent
	client       *agent
	id           string
	cgroups      *cgroupParents

	mu         sync.Mutex        // guards what follows
	allocs     map[string]bool   // all that there were, whose remains Close looks for
	namespaces map[string]string // of jobs
}

// Start brings a node up. When it fails, what it had started is gone again.
func Start(ctx context.Context, options Options) (*Node, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot start a node: run the tests as root")
	}
	t, err := options.find()
	if err != nil {
		return nil, err
	}
	// Not below /tmp, which may be in memory.
	dir, err := os.MkdirTemp("/var/tmp", "pangaea-node-")
	if err != nil {
		return nil, fmt.Errorf("cannot make the node's directory: %w", err)
	}
	n := &Node{Dir: dir, options: options, tools: t, allocs: map[string]bool{}, namespaces: map[string]string{}}
	err = n.start(ctx)
	if err != nil {
		return nil, errors.Join(err, n.tearDown())
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	// A sandbox's root user, who is nobody on the host, walks through here to what is mounted for it.
	err := os.Chmod(n.Dir, 0o711) //nolint:gosec // what is below has modes of its own
	if err != nil {
		return fmt.Errorf("cannot open the node's directory: %w", err)
	}
	n.cgroups, err = holdCgroupParents()
	if err != nil {
		return err
	}
	n.Registry, err = registry.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{n.configure, n.build, n.StartServer, n.StartClient} {
		err = step(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// build offers the programs that the tests want as images.
func (n *Node) build(ctx context.Context) error {
	for _, program := range n.options.Programs {
		image, err := registry.Program(ctx, n.tools.root, "e2e/images/"+program)
		if err != nil {
			return err
		}
		_, err = n.Registry.Push(ctx, program+":1", image)
		if err != nil {
			return err
		}
	}
	return nil
}

// URL is the server's HTTP address.
func (n *Node) URL() string { return n.at.url() }

// ID is the client's node ID.
func (n *Node) ID() string { return n.id }

// API is a client of the node's server, which passes on what only Nomad's client can answer.
func (n *Node) API() *api.Client { return n.api }

// StartServer starts the server, again if it was killed, and waits until it leads and has the key that it signs the
// tasks' identities with.
func (n *Node) StartServer(ctx context.Context) error {
	var err error
	n.api, err = api.NewClient(&api.Config{Address: n.at.url()})
	if err != nil {
		return fmt.Errorf("cannot make a client of Nomad: %w", err)
	}
	n.server, err = n.startAgent("server")
	if err != nil {
		return err
	}
	return n.server.await(ctx, "the server leads", func(ctx context.Context) error {
		var keys struct{ Keys []any }
		_, err := n.api.Raw().Query("/.well-known/jwks.json", &keys, (&api.QueryOptions{}).WithContext(ctx))
		if err == nil && len(keys.Keys) == 0 {
			return errors.New("it has no key yet")
		}
		return err
	})
}

// StartClient starts the client, again if it was killed, and waits until the node can run tasks.
func (n *Node) StartClient(ctx context.Context) error {
	err := n.LaunchClient()
	if err != nil {
		return err
	}
	return n.client.await(ctx, "the node is ready", n.ready)
}

// LaunchClient starts the client and does not wait until it is of use.
func (n *Node) LaunchClient() error {
	var err error
	n.client, err = n.startAgent("client", n.options.Env...)
	return err
}

// ready tells why the node can't run tasks yet. It asks the client first: the server believes a dead one for long.
func (n *Node) ready(ctx context.Context) error {
	client, err := api.NewClient(&api.Config{Address: n.clientAt.url()})
	if err != nil {
		return err
	}
	defer client.Close()
	query := (&api.QueryOptions{}).WithContext(ctx)
	_, err = client.Raw().Query("/v1/agent/health?type=client", new(any), query)
	if err != nil {
		return err
	}
	nodes, _, err := n.api.Nodes().List(query)
	if err != nil {
		return err
	}
	if len(nodes) != 1 || nodes[0].Status != api.NodeStatusReady {
		return errors.New("it is not registered")
	}
	info, _, err := n.api.Nodes().Info(nodes[0].ID, query)
	if err != nil {
		return err
	}
	driver := info.Drivers["runc"]
	if driver == nil || !driver.Healthy {
		return fmt.Errorf("driver runc is not healthy: %+v", driver)
	}
	devices := 0
	if info.NodeResources != nil {
		for _, group := range info.NodeResources.Devices {
			devices += len(group.Instances)
		}
	}
	if devices < len(n.options.GPUs.GPUs) {
		return fmt.Errorf("%d of %d GPUs are there", devices, len(n.options.GPUs.GPUs))
	}
	n.id = info.ID
	return nil
}

// KillClient kills the client with SIGKILL and leaves plugins, log collectors and tasks running.
func (n *Node) KillClient() error { return n.client.end(false) }

// StopClient ends the client as an operator would.
func (n *Node) StopClient() error { return n.client.end(true) }

// SignalClient sends a signal, such as SIGSTOP, to the client.
func (n *Node) SignalClient(sig syscall.Signal) error { return n.client.signal(sig) }

// KillServer kills the server with SIGKILL.
func (n *Node) KillServer() error { return n.server.end(false) }

// KillAll kills everything of the node's with SIGKILL, tasks included, as far as a machine that loses its power is like
// that: mounts and cgroups stay.
func (n *Node) KillAll() error {
	err := errors.Join(n.client.end(false), n.server.end(false))
	return errors.Join(err, n.killRest())
}

// ClientPID is the client's process.
func (n *Node) ClientPID() int { return n.client.cmd.Process.Pid }

// ServerPID is the server's process.
func (n *Node) ServerPID() int { return n.server.cmd.Process.Pid }
