// Command bench measures the device plugin beside HashiCorp's on eight simulated GPUs, in one run and in turns, and prints one
// table. The simulator's own work, which is the same for both, is part of every figure. See make bench-device.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"pangaea/e2e/nvmlsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bin := flag.String("bin", "bin", "directory of pangaea, nomad-device-nvidia and nomad")
	rounds := flag.Int("rounds", 5, "how often each plugin is measured; they take turns")
	losses := flag.Bool("losses", true, "let a GPU fall off the bus in a real Nomad too")
	flag.Parse()
	err := run(ctx, *bin, *rounds, *losses, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	out     io.Writer
	bin     string
	library string // the simulator
	state   nvmlsim.State
	sides   []side
}

// side is one of the two plugins.
type side struct {
	name    string
	program string
	config  map[string]any
}

func run(ctx context.Context, bin string, rounds int, losses bool, out io.Writer) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return fmt.Errorf("cannot find the programs: %w", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "pangaea-bench-")
	if err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &bench{out: out, bin: bin, state: nvmlsim.Host("bench", nvmlsim.H100SXM(), 8)}
	b.library, err = nvmlsim.Build(ctx, dir)
	if err != nil {
		return err
	}
	err = b.write()
	if err != nil {
		return err
	}
	ours := side{name: "pangaea-device", program: filepath.Join(dir, "pangaea-device"), config: map[string]any{
		"enabled": true, "library_path": b.library, "control_dir": filepath.Join(dir, "control"), "holds_dir": filepath.Join(dir, "holds"),
	}}
	err = os.Symlink(filepath.Join(bin, "pangaea"), ours.program)
	if err != nil {
		return fmt.Errorf("cannot link the plugin: %w", err)
	}
	b.sides = []side{ours}
	theirs, err := exec.LookPath(filepath.Join(bin, peer))
	if err != nil {
		fmt.Fprintf(out, "==> %s is not there, so ours is alone: %v\n", peer, err)
	} else {
		b.sides = append(b.sides, side{name: peer, program: theirs, config: map[string]any{"enabled": true, "ignored_gpu_ids": []string{}}})
	}
	table, err := b.costs(ctx, rounds)
	if err != nil {
		return err
	}
	table.print(out, b.sides, rounds)
	if !losses {
		return nil
	}
	return b.losses(ctx)
}

// peer is HashiCorp's plugin.
const peer = "nomad-device-nvidia"

// write lets the simulator know of the state.
func (b *bench) write() error {
	return nvmlsim.WriteState(filepath.Join(filepath.Dir(b.library), nvmlsim.StateFile), b.state)
}

// with is the side's configuration with another fingerprint_period.
func (s side) with(period time.Duration) map[string]any {
	config := map[string]any{"fingerprint_period": period.String()}
	for key, value := range s.config {
		config[key] = value
	}
	return config
}
