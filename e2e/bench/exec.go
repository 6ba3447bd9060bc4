package bench

import (
	"context"
	"fmt"
	"time"

	"pangaea/e2e/node"
)

// allocExec measures nomad alloc exec of true in a task of each driver, less what the CLI itself takes.
func (n *site) allocExec(ctx context.Context, cli *node.Node, drivers []driver) ([]Row, error) {
	row := Row{What: "alloc exec true, over the CLI's own time", Unit: "ms", Promises: []Promise{{Limit: 30}}}
	fmt.Fprintf(n.out, "==> %s\n", row.What)
	commands, err := n.execCommands(ctx, drivers)
	if err != nil {
		return nil, err
	}
	times := make([]Side, len(commands))
	for round := range rounds + 1 {
		for i, command := range commands {
			began := time.Now()
			_, err := cli.Nomad(ctx, command...)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				times[i].Values = append(times[i].Values, milliseconds(time.Since(began)))
			}
		}
	}
	floor := times[0].median()
	row.Note = "alloc status, which does as much without a task, takes " + times[0].spread() + " ms"
	for i, d := range drivers {
		for _, took := range times[i+1].Values {
			row.add(d.name, took-floor)
		}
		_, err := n.stop(ctx, "exec-"+d.name)
		if err != nil {
			return nil, err
		}
	}
	return []Row{row}, nil
}

// execCommands starts a task of each driver and returns the CLI's arguments: what does nothing in a task, then the
// drivers' execs.
func (n *site) execCommands(ctx context.Context, drivers []driver) ([][]string, error) {
	commands := [][]string{nil}
	for _, d := range drivers {
		job := "exec-" + d.name
		err := n.submit(n.job(job, d, 1, sleeper...))
		if err != nil {
			return nil, err
		}
		stubs, err := n.running(ctx, job)
		if err != nil {
			return nil, err
		}
		commands[0] = []string{"alloc", "status", stubs[0].ID}
		commands = append(commands, []string{"alloc", "exec", "-i=false", "-t=false", stubs[0].ID, d.busybox, "true"})
	}
	return commands, nil
}
