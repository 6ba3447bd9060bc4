package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	window = 4 * time.Second        // how long each CPU time is taken over
	often  = 200 * time.Millisecond // how often, so that what is measured is not lost in idle time
	never  = time.Hour
	nomads = time.Second // how often Nomad wants statistics
)

// The rows of the table.
const (
	rowStart  = "from start until 8 GPUs are offered, ms"
	rowLook   = "CPU of one look at 8 GPUs, ms"
	rowStats  = "CPU of one round of statistics, ms"
	rowIdle   = "CPU as Nomad runs it, statistics each second, % of a core"
	rowRSS    = "resident memory, MiB"
	rowPSS    = "proportional memory, MiB"
	rowFormat = "%-60s"
)

func rows() []string {
	return []string{rowStart, rowLook, rowStats, rowIdle, rowRSS, rowPSS}
}

// table is what was measured: row, side, one value a round.
type table map[string]map[string][]float64

func (t table) add(row string, s side, value float64) {
	if t[row] == nil {
		t[row] = make(map[string][]float64)
	}
	t[row][s.name] = append(t[row][s.name], value)
}

func (t table) print(out io.Writer, sides []side, rounds int) {
	fmt.Fprintf(out, "\n==> medians of %d [min-max]\n"+rowFormat, rounds, "")
	for _, s := range sides {
		fmt.Fprintf(out, " %24s", s.name)
	}
	fmt.Fprintln(out)
	for _, row := range rows() {
		fmt.Fprintf(out, rowFormat, row)
		for _, s := range sides {
			v := slices.Sorted(slices.Values(t[row][s.name]))
			fmt.Fprintf(out, " %24s", fmt.Sprintf("%.2f [%.2f-%.2f]", v[len(v)/2], v[0], v[len(v)-1]))
		}
		fmt.Fprintln(out)
	}
}

// costs measures both sides in turns.
func (b *bench) costs(ctx context.Context, rounds int) (table, error) {
	t := make(table)
	for round := range rounds {
		fmt.Fprintf(b.out, "==> round %d of %d\n", round+1, rounds)
		for _, s := range b.sides {
			for _, step := range []func(context.Context, side, table) error{b.looks, b.statistics, b.asNomad} {
				err := step(ctx, s, t)
				if err != nil {
					return nil, fmt.Errorf("cannot measure %s: %w", s.name, err)
				}
			}
		}
	}
	return t, nil
}

// offering starts a plugin that has offered all GPUs; the caller ends it.
func (b *bench) offering(ctx context.Context, s side, config map[string]any) (*process, error) {
	p, err := b.start(s, config)
	if err != nil {
		return nil, err
	}
	err = p.offered(ctx, len(b.state.GPUs))
	if err != nil {
		p.client.Kill()
		return nil, err
	}
	return p, nil
}

// looks takes the cost of a look: often, with nothing else to do.
func (b *bench) looks(ctx context.Context, s side, t table) error {
	p, err := b.offering(ctx, s, s.with(often))
	if err != nil {
		return err
	}
	defer p.client.Kill()
	t.add(rowStart, s, float64(time.Since(p.began).Microseconds())/1000)
	used, err := p.during(ctx, window)
	t.add(rowLook, s, ms(used)/float64(window/often))
	return err
}

// statistics takes the cost of a round of them, by those that came.
func (b *bench) statistics(ctx context.Context, s side, t table) error {
	p, err := b.offering(ctx, s, s.with(never))
	if err != nil {
		return err
	}
	defer p.client.Kill()
	count, err := p.poll(ctx, often)
	if err != nil {
		return err
	}
	before := count()
	used, err := p.during(ctx, window)
	if err != nil {
		return err
	}
	came := count() - before
	if came == 0 {
		return fmt.Errorf("no statistics within %s", window)
	}
	t.add(rowStats, s, ms(used)/float64(came))
	return nil
}

// asNomad takes what a node pays: each plugin looks as often as it likes, and Nomad wants statistics every second.
func (b *bench) asNomad(ctx context.Context, s side, t table) error {
	config := s.config
	if s.name == peer {
		config = s.with(time.Minute) // the default of its schema
	}
	p, err := b.offering(ctx, s, config)
	if err != nil {
		return err
	}
	defer p.client.Kill()
	_, err = p.poll(ctx, nomads)
	if err != nil {
		return err
	}
	used, err := p.during(ctx, 2*window)
	if err != nil {
		return err
	}
	t.add(rowIdle, s, 100*float64(used)/float64(2*window))
	rss, pss, err := p.memory()
	t.add(rowRSS, s, rss)
	t.add(rowPSS, s, pss)
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// during is the CPU time that the process uses in a while.
func (p *process) during(ctx context.Context, d time.Duration) (time.Duration, error) {
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-timer.C:
	}
	after, err := p.cpu()
	return after - before, err
}
