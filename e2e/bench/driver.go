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
    "driver.allowlist" = "runc,exec,raw_exec,docker"
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

// How often each side of a comparison runs, after once that does not count.
const (
	rounds     = 10
	longRounds = 3
)

// Driver measures our driver beside its peers on a Nomad node of its own, with the programs in bin: all of it, or what has
// only in its name.
func Driver(ctx context.Context, bin, only string, out io.Writer) (rows []Row, err error) {
	drivers := append([]driver{ours()}, nomads()...)
	config := clientConfig
	engine, err := startDocker(ctx)
	if err != nil {
		return nil, err
	}
	if engine != nil {
		defer func() { err = errors.Join(err, engine.stop()) }()
		config += engine.clientConfig()
		drivers = append(drivers, docker())
	}
	fmt.Fprintln(out, "==> a Nomad node")
	nomad, err := node.Start(ctx, node.Options{Bin: bin, Client: config})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, nomad.Close(context.WithoutCancel(ctx))) }()
	n := &site{api: nomad.API(), out: out, processes: nomad.Processes}
	if engine != nil {
		n.processes = func() ([]node.Process, error) {
			own, err := nomad.Processes()
			docks, dockErr := naming(engine.dir)
			return append(own, docks...), errors.Join(err, dockErr)
		}
	}
	n.image, err = offer(ctx, nomad.Registry)
	if err != nil {
		return nil, err
	}
	n.log, err = openLog(filepath.Join(nomad.Dir, "logs", "client.log"))
	if err != nil {
		return nil, err
	}
	steps := slices.DeleteFunc(n.steps(nomad, drivers, engine), func(s step) bool { return !strings.Contains(s.name, only) })
	return n.measure(ctx, steps)
}

// steps are the measures.
func (n *site) steps(on *node.Node, drivers []driver, engine *dockerEngine) []step {
	return []step{
		n.inTurns(drivers, n.startTask, rounds, Row{
			What: "StartTask, cached image, full sandbox", Unit: "ms", Promises: []Promise{{Limit: 35}, {Limit: 0.35, Of: "exec"}},
		}),
		n.inTurns([]driver{oursByDefault(), nomads()[0]}, n.startTask, rounds, Row{
			What: "StartTask with the network that the driver makes", Unit: "ms", Promises: []Promise{{Limit: 35}, {Limit: 0.35, Of: "exec"}},
		}),
		n.inTurns(drivers, n.stopTask, rounds, Row{
			What: "stop of a process that obeys SIGTERM", Unit: "ms", Promises: []Promise{{Limit: 1.1, Of: "exec"}},
		}),
		{"alloc exec", func(ctx context.Context) ([]Row, error) { return n.allocExec(ctx, on, drivers) }},
		n.inTurns(drivers, n.hundred, longRounds, Row{
			What: "100 tasks of true on one node", Unit: "s", Promises: []Promise{{Limit: 8}, {Limit: 0.65, Of: "exec"}},
		}),
		{"idle tasks", func(ctx context.Context) ([]Row, error) { return n.idle(ctx, drivers) }},
		{"pull", func(ctx context.Context) ([]Row, error) { return n.pulls(ctx, on.Registry, engine) }},
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
		began := time.Now()
		done, err := step.run(ctx)
		if err != nil {
			return nil, err
		}
		for _, row := range done {
			row.judge()
			fmt.Fprintf(n.out, "    %s\n", row.brief())
			rows = append(rows, row)
		}
		fmt.Fprintf(n.out, "    in %.0f s\n", time.Since(began).Seconds())
	}
	return rows, nil
}

// inTurns fills a row by turns, after one turn of each driver that does not count.
func (n *site) inTurns(drivers []driver, measure func(context.Context, driver) (float64, error), rounds int, row Row) step {
	return step{row.What, func(ctx context.Context) ([]Row, error) {
		fmt.Fprintf(n.out, "==> %s\n", row.What)
		for round := range rounds + 1 {
			for _, d := range drivers {
				value, err := measure(ctx, d)
				if err != nil {
					return nil, err
				}
				if round > 0 {
					row.add(d.name, value)
				}
			}
		}
		return []Row{row}, nil
	}}
}
