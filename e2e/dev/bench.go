package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"pangaea/e2e/devpool"
)

// rounds is how often each side of a comparison runs; the sides take turns.
const rounds = 12

// sleepers is how many tasks stand idle while memory is measured.
const sleepers = 20

// bench measures what the project promises, side by side with a peer in the same run, and prints one table.
func bench(ctx context.Context, pool *devpool.Pool, out io.Writer) error {
	b := &measure{pool: pool, cluster: pool.Clusters[0]}
	err := b.prepare(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n==> medians of %d [min-max]\n", rounds)
	for _, step := range []func(context.Context, io.Writer) error{b.startTask, b.jobRun, b.memory} {
		err = step(ctx, out)
		if err != nil {
			return err
		}
	}
	return nil
}

// startTask compares the driver's StartTask for a cached image with that of Nomad's exec driver on the same node.
func (b *measure) startTask(ctx context.Context, out io.Writer) error {
	ours, theirs, err := alternate(
		func(round int) (time.Duration, error) { return b.startOnce(ctx, "runc", round) },
		func(round int) (time.Duration, error) { return b.startOnce(ctx, "exec", round) },
	)
	if err != nil {
		return err
	}
	report(out, "StartTask, cached image: runc / exec", ours, theirs, 0.4)
	return nil
}

// jobRun compares a job sent through the gateway with the same job sent straight to the member that runs it.
func (b *measure) jobRun(ctx context.Context, out io.Writer) error {
	ours, theirs, err := alternate(
		func(round int) (time.Duration, error) { return b.runOnce(ctx, true, round) },
		func(round int) (time.Duration, error) { return b.runOnce(ctx, false, round) },
	)
	if err != nil {
		return err
	}
	report(out, "nomad job run until running: gateway / direct", ours, theirs, 1.5)
	return nil
}

// memory adds up what our own processes hold per idle task.
func (b *measure) memory(ctx context.Context, out io.Writer) error {
	err := b.startSleepers(ctx, sleepers)
	if err != nil {
		return err
	}
	kib, processes, err := ownPSS()
	if err != nil {
		return err
	}
	perTask := float64(kib) / 1024 / sleepers
	fmt.Fprintf(out, "%-46s %6.2f MiB of PSS with %d tasks, %d processes; promised at most 6: %s\n",
		"host memory per idle task", perTask, sleepers, processes, verdict(perTask <= 6))
	return b.stopSleepers(ctx)
}

// alternate runs two measurements in turns, after one round of each that does not count.
func alternate(ours, theirs func(round int) (time.Duration, error)) (a, b []time.Duration, err error) {
	for round := range rounds + 1 {
		mine, err := ours(round)
		if err != nil {
			return nil, nil, err
		}
		other, err := theirs(round)
		if err != nil {
			return nil, nil, err
		}
		if round > 0 {
			a, b = append(a, mine), append(b, other)
		}
	}
	return a, b, nil
}

func report(out io.Writer, what string, ours, theirs []time.Duration, target float64) {
	ratio := float64(median(ours)) / float64(median(theirs))
	fmt.Fprintf(out, "%-46s %s / %s, ratio %.2f; promised at most %.2f: %s\n",
		what, spread(ours), spread(theirs), ratio, target, verdict(ratio <= target))
}

func verdict(isMet bool) string {
	if isMet {
		return "met"
	}
	return "MISSED"
}

func median(values []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func spread(values []time.Duration) string {
	return fmt.Sprintf("%d [%d-%d] ms", median(values).Milliseconds(), slices.Min(values).Milliseconds(), slices.Max(values).Milliseconds())
}
