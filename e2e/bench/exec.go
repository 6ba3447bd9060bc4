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
	allocations, err := n.startSleepers(ctx, drivers)
	if err != nil {
		return nil, err
	}
	var floor Side
	for round := range rounds + 1 {
		err = execInTurns(ctx, cli, drivers, allocations, &row, &floor, round > 0)
		if err != nil {
			return nil, err
		}
	}
	for _, side := range row.Sides {
		for i := range side.Values {
			side.Values[i] -= floor.median()
		}
	}
	row.Note = "alloc status, which does as much without a task, takes " + floor.spread() + " ms"
	for _, d := range drivers {
		_, err := n.stop(ctx, sleeperJob(d))
		if err != nil {
			return nil, err
		}
	}
	return []Row{row}, nil
}

// execInTurns takes one turn: of alloc status, which does what exec does but for the task, and of each driver's exec.
func execInTurns(ctx context.Context, cli *node.Node, drivers []driver, allocations []string, row *Row, floor *Side, counts bool) error {
	took, err := timeCLI(ctx, cli, "alloc", "status", allocations[0])
	if err != nil {
		return err
	}
	if counts {
		floor.Values = append(floor.Values, took)
	}
	for i, d := range drivers {
		err := row.take(ctx, d.name, d.foreign, counts, func() (float64, error) {
			return timeCLI(ctx, cli, "alloc", "exec", "-i=false", "-t=false", allocations[i], d.busybox, "true")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// timeCLI is what a command of Nomad's CLI takes, in milliseconds.
func timeCLI(ctx context.Context, cli *node.Node, args ...string) (float64, error) {
	began := time.Now()
	_, err := cli.Nomad(ctx, args...)
	return milliseconds(time.Since(began)), err
}

func sleeperJob(d driver) string { return "exec-" + d.name }

// startSleepers runs a task of each driver that waits, and returns their allocations.
func (n *site) startSleepers(ctx context.Context, drivers []driver) ([]string, error) {
	var allocations []string
	for _, d := range drivers {
		err := n.submit(n.job(sleeperJob(d), d, 1, sleeper...))
		if err != nil {
			return nil, err
		}
		stubs, err := n.running(ctx, sleeperJob(d))
		if err != nil {
			return nil, err
		}
		allocations = append(allocations, stubs[0].ID)
	}
	return allocations, nil
}
