package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"pangaea/e2e/node"
)

// peers are the engines besides Nomad's own drivers that the machine has.
type peers struct {
	all     []*peer
	missing []string // and how to get them
	plugins []string // programs that Nomad needs for them
}

// peer is an engine that runs, and what Nomad calls the driver for it.
type peer struct {
	engine *engine
	driver driver
	config string // of Nomad's client
	lacks  string // what its tasks do without that ours have
}

// startPeers starts those that there are. Whatever it returns is to be stopped.
func startPeers(ctx context.Context, bin string) (*peers, error) {
	p := &peers{missing: []string{"containerd: its Nomad driver, Roblox's, is not in the Go module proxy"}}
	for _, known := range []struct {
		program string
		start   func(ctx context.Context, bin, program string) (*engine, error)
		config  func(*engine) string
		plugin  string // that Nomad needs for it
		peer    peer
	}{
		{"dockerd", startDocker, dockerConfig, "", peer{driver: docker(), lacks: "user namespace, network namespace (but has one under runsc)"}},
		{"podman", startPodman, podmanConfig, podmanDriver, peer{
			driver: podman(), lacks: "user namespace, network namespace; its driver is 0.4.1, the newest that the module proxy has",
		}},
	} {
		name := known.peer.driver.name
		program, plugin := findPeer(bin, known.program), filepath.Join(bin, known.plugin)
		_, err := os.Stat(plugin)
		if program == "" || err != nil {
			p.missing = append(p.missing, name+": it is not there; make bench-driver PEERS="+name+" gets it")
			continue
		}
		e, err := known.start(ctx, bin, program)
		if err != nil {
			return p, err
		}
		known.peer.engine, known.peer.config = e, known.config(e)
		p.all = append(p.all, &known.peer)
		if known.plugin != "" {
			p.plugins = append(p.plugins, plugin)
		}
	}
	return p, nil
}

func (p *peers) stop() error {
	var err error
	for _, peer := range p.all {
		err = errors.Join(err, peer.engine.stop())
	}
	return err
}

func (p *peers) clientConfig() string {
	text := ""
	for _, peer := range p.all {
		text += peer.config
	}
	return text
}

func (p *peers) drivers() []driver {
	var all []driver
	for _, peer := range p.all {
		all = append(all, peer.driver)
	}
	return all
}

// underRunsc are the drivers that can run tasks under gVisor too.
func (p *peers) underRunsc() []driver {
	var all []driver
	for _, d := range p.drivers() {
		if d.name == "docker" {
			all = append(all, underRunsc(d))
		}
	}
	return all
}

func (p *peers) pullers() []puller {
	var all []puller
	for _, peer := range p.all {
		all = append(all, peer.engine.puller())
	}
	return all
}

// processes lists those of the node and of the engines.
func (p *peers) processes(on *node.Node) ([]node.Process, error) {
	all, err := on.Processes()
	for _, peer := range p.all {
		found, findErr := naming(peer.engine.dir)
		all, err = append(all, found...), errors.Join(err, findErr)
	}
	return all, err
}

// leaveOut says what the sides do less than ours.
func (p *peers) leaveOut() []string {
	notes := []string{
		"runc has a user namespace, a seccomp filter, no capabilities and a network namespace with nothing but loopback",
		"exec does without: user namespace, seccomp filter, network namespace, image",
		"raw_exec does without any isolation and without limits",
	}
	for _, peer := range p.all {
		notes = append(notes, fmt.Sprintf("%s does without: %s", peer.driver.name, peer.lacks))
	}
	return notes
}
