package bench

import (
	"context"
	"errors"
	"fmt"

	"pangaea/e2e/node"
)

// peers are the engines besides Nomad's own drivers that the machine has.
type peers struct {
	all     []*peer
	missing []string // and how to get them
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
	p := &peers{}
	program := findPeer(bin, "dockerd")
	if program == "" {
		p.missing = append(p.missing, "docker: there is no dockerd; make bench-driver PEERS=docker gets it from Debian")
		return p, nil
	}
	e, err := startDocker(ctx, bin, program)
	if err != nil {
		return p, err
	}
	p.all = append(p.all, &peer{engine: e, driver: docker(), config: dockerConfig(e), lacks: "user namespace, network namespace (but has one under runsc)"})
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
