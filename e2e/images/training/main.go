// Command training is one worker of a data-parallel training run: each worker holds its own part of the data, the
// workers average their gradients over TCP at every step, and all must end with the same weights.
//
// It reads what torchrun's env:// rendezvous reads: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Rank 0 listens on
// the port labelled "rendezvous"; where the others are and how they reach it is the pool's business.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// joinTimeout is how long a worker waits for the others.
const joinTimeout = 2 * time.Minute

type world struct {
	rank, size int
	master     string // host:port at which this worker reaches rank 0
	listen     string // address on which rank 0 listens
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "training:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	w, err := readWorld(os.Getenv)
	if err != nil {
		return err
	}
	fmt.Printf("rank %d of %d on GPU %s, rendezvous %s\n", w.rank, w.size, os.Getenv("NVIDIA_VISIBLE_DEVICES"), w.master)
	workers, err := join(ctx, w)
	if err != nil {
		return err
	}
	defer workers.close()
	model, err := train(workers, shard(w.rank, w.size))
	if err != nil {
		return err
	}
	agreed, err := workers.agree(model.checksum())
	if err != nil {
		return err
	}
	fmt.Printf("rank %d agrees with %d workers: weights %.4f checksum %s\n", w.rank, agreed, model.weights, model.checksum())
	return nil
}

// readWorld reads the worker's place in the run from its environment.
func readWorld(getenv func(string) string) (world, error) {
	var w world
	var err error
	w.rank, err = strconv.Atoi(getenv("RANK"))
	if err != nil {
		return w, fmt.Errorf("cannot read RANK: %w; run this as a group with meta { pool_gang = \"true\" }", err)
	}
	w.size, err = strconv.Atoi(getenv("WORLD_SIZE"))
	if err != nil || w.size < 1 || w.rank < 0 || w.rank >= w.size {
		return w, fmt.Errorf("rank %d does not fit a world of %q workers", w.rank, getenv("WORLD_SIZE"))
	}
	w.master = getenv("MASTER_ADDR") + ":" + getenv("MASTER_PORT")
	w.listen = ":" + getenv("NOMAD_PORT_rendezvous")
	return w, nil
}
