package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pangaea/e2e/node"
)

// clientConfig is what a node to be measured is configured with besides: to log when each step was done, all of the
// drivers, and for exec a file system that does not take it seconds to link.
const clientConfig = `
log_level = "TRACE"
client {
  options {
    "driver.allowlist" = "runc,exec,raw_exec,docker,podman"
  }
  chroot_env {
    "/bin/busybox" = "/bin/busybox"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
`

// How often each side of a comparison runs. The first turn of the short ones does not count besides.
const (
	rounds     = 10
	longRounds = 3
)

// Options say what to measure and where to tell of it.
type Options struct {
	Bin  string // directory of the programs
	Only string // part of the name of what to measure, "" for all
	Out  io.Writer
}

// Driver measures our driver beside its peers on a Nomad node of its own.
func Driver(ctx context.Context, o Options) (report Report, err error) {
	peers, err := startPeers(ctx, o.Bin)
	defer func() { err = errors.Join(err, peers.stop()) }()
	if err != nil {
		return report, err
	}
	for _, missing := range peers.missing {
		fmt.Fprintln(o.Out, "==> going on without", missing)
	}
	fmt.Fprintln(o.Out, "==> a Nomad node")
	big := makeBigImage()
	runsc, err := filepath.Abs(filepath.Join(o.Bin, "runsc"))
	if err != nil {
		return report, fmt.Errorf("cannot find runsc: %w", err)
	}
	nomad, err := node.Start(ctx, node.Options{
		Bin: o.Bin, Plugins: peers.plugins, Client: clientConfig + peers.clientConfig(), Driver: fmt.Sprintf("runtime %q {\n path = %q\n kind = \"runsc\"\n}", "runsc", runsc),
	})
	if err != nil {
		return report, err
	}
	defer func() {
		fmt.Fprintln(o.Out, "==> taking the node down")
		err = errors.Join(err, nomad.Close(context.WithoutCancel(ctx)))
	}()
	n := &site{api: nomad.API(), out: o.Out, processes: func() ([]node.Process, error) { return peers.processes(nomad) }}
	n.image, err = offer(ctx, nomad.Registry)
	if err != nil {
		return report, err
	}
	n.log, err = openLog(filepath.Join(nomad.Dir, "logs", "client.log"))
	if err != nil {
		return report, err
	}
	ref, err := (<-big)(ctx, nomad.Registry)
	if err != nil {
		return report, err
	}
	steps := slices.DeleteFunc(n.steps(nomad, peers, ref), func(s step) bool { return !strings.Contains(s.name, o.Only) })
	report.Rows, err = n.measure(ctx, steps)
	report.Notes = append(peers.leaveOut(), peers.missing...)
	return report, err
}

// steps are the measures, as they are promised.
func (n *site) steps(on *node.Node, peers *peers, big string) []step {
	drivers := append([]driver{ours()}, append(nomads(), peers.drivers()...)...)
	return []step{
		n.inTurns(drivers, n.startTask, Row{
			What: "StartTask, cached image, full sandbox", Unit: "ms", Promises: []Promise{{Limit: 35}, {Limit: 0.35, Of: "exec"}},
		}),
		n.inTurns([]driver{oursByDefault(), nomads()[0]}, n.startTask, Row{
			What: "StartTask with the network that the driver makes", Unit: "ms", Promises: []Promise{{Limit: 35}, {Limit: 0.35, Of: "exec"}},
		}),
		n.inTurns(append([]driver{underRunsc(ours())}, peers.underRunsc()...), n.startTask, Row{
			What: "StartTask under runsc", Unit: "ms", Promises: []Promise{{Limit: 180}},
		}),
		n.inTurns(drivers, n.stopTask, Row{
			What: "stop of a process that obeys SIGTERM", Unit: "ms", Promises: []Promise{{Limit: 1.1, Of: "exec"}},
		}),
		{"alloc exec", func(ctx context.Context) ([]Row, error) { return n.allocExec(ctx, on, drivers) }},
		{"100 tasks", func(ctx context.Context) ([]Row, error) { return n.hundreds(ctx, drivers) }},
		{"idle tasks", func(ctx context.Context) ([]Row, error) { return n.idle(ctx, drivers) }},
		{"pull", func(ctx context.Context) ([]Row, error) { return n.pulls(ctx, big, peers.pullers()) }},
	}
}

// step fills one or several rows.
type step struct {
	name string
	run  func(context.Context) ([]Row, error)
}

// measure takes the steps and says how far it has got.
func (n *site) measure(ctx context.Context, steps []step) ([]Row, error) {
	var rows []Row
	for _, step := range steps {
		err := n.settle(ctx)
		if err != nil {
			return nil, err
		}
		before, err := calm(ctx)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		done, err := step.run(ctx)
		if err != nil {
			return rows, err
		}
		for _, row := range done {
			row.Before = before
			row.judge()
			fmt.Fprintf(n.out, "    %s\n", row.brief())
			rows = append(rows, row)
		}
		fmt.Fprintf(n.out, "    in %.0f s; %s\n", time.Since(began).Seconds(), before)
	}
	return rows, nil
}

// inTurns fills a row by turns, after one turn of each driver that does not count.
func (n *site) inTurns(drivers []driver, measure func(context.Context, driver) (float64, error), row Row) step {
	return step{row.What, func(ctx context.Context) ([]Row, error) {
		fmt.Fprintf(n.out, "==> %s\n", row.What)
		for round := range rounds + 1 {
			for _, d := range drivers {
				err := row.take(ctx, d.name, d.foreign, round > 0, func() (float64, error) { return measure(ctx, d) })
				if err != nil {
					return nil, err
				}
			}
		}
		return []Row{row}, nil
	}}
}
