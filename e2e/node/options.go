package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"pangaea/e2e/nvmlsim"
)

// Options say what a node is made of. The zero value is a node without GPUs, with the programs in bin/.
type Options struct {
	// Bin is the directory of pangaea, pangaea-shim and pangaea-runtime; "" means PANGAEA_BIN or else the
	// source tree's bin.
	Bin string
	// GPUs are simulated. Without any, the node has none, even on a machine that does.
	GPUs nvmlsim.State
	// Programs are names below e2e/images to build and offer in the node's registry as NAME:1.
	Programs []string
	// Plugins are programs of other plugins.
	Plugins []string
	// Server and Client are more configuration of the agents, in HCL; Nomad merges it with ours.
	Server, Client string
	// Driver and Device are more options for the plugins' config blocks, in HCL. In Device, AGENT stands for the
	// client's HTTP address.
	Driver, Device string
	// Egress is the driver's egress block; "" disables it, because it would change this machine's own network. Tests in
	// a network of their own (package hostnet) have one.
	Egress string
	// Runsc offers gVisor to jobs, as the runtime "runsc".
	Runsc bool
	// Env is added to the environment of the client, and so of the plugins, as NAME=VALUE.
	Env []string
	// Log gets the last lines of the agents' logs when something goes wrong; nil means os.Stderr.
	Log *os.File
}

// tools are the programs that a node is made of.
type tools struct{ root, bin, nomad, runsc string }

func (o Options) find() (tools, error) {
	root, err := moduleRoot()
	if err != nil {
		return tools{}, err
	}
	t := tools{root: root, bin: o.Bin}
	if t.bin == "" {
		t.bin = os.Getenv("PANGAEA_BIN")
	}
	if t.bin == "" {
		t.bin = filepath.Join(root, "bin")
	}
	t.bin, err = filepath.Abs(t.bin)
	if err != nil {
		return t, fmt.Errorf("cannot find the programs: %w", err)
	}
	t.nomad, err = t.look("nomad")
	if o.Runsc {
		var runscErr error
		t.runsc, runscErr = t.look("runsc")
		err = errors.Join(err, runscErr)
	}
	for _, name := range programs() {
		_, statErr := os.Stat(filepath.Join(t.bin, name)) //nolint:gosec // the path is the test's own
		err = errors.Join(err, statErr)
	}
	if err != nil {
		return t, fmt.Errorf("cannot find the programs: %w; run make build tools", err)
	}
	return t, nil
}

// look finds a program of others beside ours, where make leaves it, or on PATH.
func (t tools) look(name string) (string, error) {
	var err error
	for _, dir := range []string{t.bin, os.Getenv("PANGAEA_BIN"), filepath.Join(t.root, "bin"), ""} {
		var path string
		path, err = exec.LookPath(filepath.Join(dir, name))
		if err == nil {
			return filepath.Abs(path)
		}
	}
	return "", err
}

// programs are ours; the plugins are links to the first.
func programs() []string { return []string{"pangaea", "pangaea-shim", "pangaea-runtime"} }

// moduleRoot is the source tree that the test belongs to.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		_, err = os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if dir == "/" {
			break
		}
		dir, err = filepath.Dir(dir), nil
	}
	return "", fmt.Errorf("cannot find the source tree: %w", err)
}
