package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/node"
)

const (
	// settle is how long Nomad has to learn of a change, of which its client tells the servers every 5 to 10 seconds.
	settle = 40 * time.Second
	lost   = 3
	looked = "2s" // fingerprint_period, ours by default; theirs is a minute by default
)

// losses lets one GPU of eight fall off the bus under a real Nomad, and come back.
func (b *bench) losses(ctx context.Context) error {
	fmt.Fprintf(b.out, "\n==> 1 of 8 GPUs falls off the bus and comes back, in a real Nomad, fingerprint_period = %s\n", looked)
	for _, s := range b.sides {
		err := b.loss(ctx, s)
		if err != nil {
			return fmt.Errorf("cannot show the loss of a GPU with %s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) loss(ctx context.Context, s side) (err error) {
	b.state.GPUs[lost].Faults = nil
	err = b.write()
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, node.Options{
		Bin: b.bin, Env: []string{"LD_LIBRARY_PATH=" + filepath.Dir(b.library)},
		Device: fmt.Sprintf("enabled = %t\nfingerprint_period = %q", s.name != peer, looked),
		Client: fmt.Sprintf("plugin %q { config { fingerprint_period = %q } }", peer, looked),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(context.WithoutCancel(ctx))) }()
	err = b.install(ctx, n, s)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%s\n", s.name)
	err = b.await(ctx, n, "offered at first", func(v view) bool { return v.healthy == len(b.state.GPUs) })
	if err != nil {
		return err
	}
	b.state.GPUs[lost].Lose()
	err = b.write()
	if err != nil {
		return err
	}
	err = b.await(ctx, n, "after the loss", func(v view) bool { return v.healthy < len(b.state.GPUs) })
	if err != nil {
		return err
	}
	b.state.GPUs[lost].Faults = nil
	err = b.write()
	if err != nil {
		return err
	}
	return b.await(ctx, n, "after it came back", func(v view) bool { return v.healthy == len(b.state.GPUs) })
}

// install gives the node the plugin: theirs by a file of its own, ours by the simulator in the place of no library.
func (b *bench) install(ctx context.Context, n *node.Node, s side) error {
	if s.name != peer {
		return os.Symlink(b.library, filepath.Join(n.Dir, "no-gpus"))
	}
	err := os.Symlink(s.program, filepath.Join(n.Dir, "plugins", peer))
	if err == nil {
		err = n.StopClient()
	}
	if err == nil {
		err = n.StartClient(ctx)
	}
	return err
}

// view is what Nomad's servers know of the GPUs.
type view struct {
	listed, healthy int
	reasons         []string
}

// await says what Nomad offers as soon as it is as expected, or after a while in which that did not come.
func (b *bench) await(ctx context.Context, n *node.Node, when string, expected func(view) bool) error {
	began := time.Now()
	deadline, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	var v view
	query := (&api.QueryOptions{}).WithContext(deadline)
	for {
		info, meta, err := n.API().Nodes().Info(n.ID(), query)
		if deadline.Err() != nil && ctx.Err() == nil {
			fmt.Fprintf(b.out, "  %-20s %s, still after %s\n", when, v, settle)
			return nil
		}
		if err != nil {
			return err
		}
		v = look(info)
		if expected(v) {
			fmt.Fprintf(b.out, "  %-20s %s, after %.1f s\n", when, v, time.Since(began).Seconds())
			return nil
		}
		query.WaitIndex = meta.LastIndex
	}
}

func look(info *api.Node) view {
	var v view
	if info.NodeResources == nil {
		return v
	}
	for _, group := range info.NodeResources.Devices {
		for _, instance := range group.Instances {
			v.listed++
			if instance.Healthy {
				v.healthy++
			} else {
				v.reasons = append(v.reasons, fmt.Sprintf("%s: %s", instance.ID, instance.HealthDescription))
			}
		}
	}
	return v
}

func (v view) String() string {
	text := fmt.Sprintf("%d of %d offered", v.healthy, v.listed)
	if len(v.reasons) > 0 {
		text += " (" + strings.Join(v.reasons, "; ") + ")"
	}
	return text
}
