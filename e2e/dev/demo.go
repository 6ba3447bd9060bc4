package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/devpool"
)

// demo runs every job of jobspecs/ through the gateway with the unmodified nomad CLI and shows where it landed.
func demo(ctx context.Context, pool *devpool.Pool, out io.Writer) error {
	d := &show{ctx: ctx, pool: pool, out: out}
	steps := []struct {
		title string
		run   func() error
	}{
		{"the pool's nodes, as nomad sees them", func() error { return d.nomad("node", "status") }},
		{"hello-gpu: one GPU, anywhere", func() error { return d.batch("hello-gpu") }},
		{"pin: one GPU of jp-tyo-1", func() error { return d.batch("pin") }},
		{"training: a gang of six workers over all three members", func() error { return d.batch("training") }},
		{"inference: a service that may run in France or Germany only", d.inference},
	}
	for _, step := range steps {
		fmt.Fprintf(out, "\n==> %s\n", step.title)
		err := step.run()
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.title, err), ctx.Err())
		}
	}
	fmt.Fprintln(out, "\n==> every step held")
	return nil
}

// show runs the demo's steps.
type show struct {
	ctx  context.Context
	pool *devpool.Pool
	out  io.Writer
}

// nomad runs the CLI and shows the command and its output.
func (s *show) nomad(args ...string) error {
	fmt.Fprintf(s.out, "$ nomad %s\n", strings.Join(args, " "))
	output, err := s.pool.Nomad(s.ctx, args...)
	fmt.Fprint(s.out, indent(output))
	return err
}

// batch runs a batch job to its end and shows each allocation's place, logs and exit.
func (s *show) batch(job string) error {
	err := s.nomad("job", "run", "jobspecs/"+job+".nomad.hcl")
	if err != nil {
		return err
	}
	allocations, err := s.pool.AwaitJob(s.ctx, job, api.AllocClientStatusComplete, 2*time.Minute)
	for _, allocation := range allocations {
		s.describe(allocation)
	}
	if err != nil {
		return err
	}
	return s.nomad("job", "stop", "-purge", "-detach", job)
}

// describe shows where an allocation landed, what it was given, what it printed and how it ended.
func (s *show) describe(allocation *devpool.Allocation) {
	fmt.Fprintf(s.out, "  %s  %s (%s)  %s  %s\n", allocation.Name, allocation.Member, allocation.Country,
		strings.Join(allocation.GPUs, ", "), allocation.ClientStatus)
	logs, err := s.pool.Nomad(s.ctx, "alloc", "logs", allocation.ID)
	if err != nil {
		fmt.Fprintf(s.out, "    no logs: %v\n", err)
	}
	fmt.Fprint(s.out, indent(indent(logs)))
	for task, state := range allocation.TaskStates {
		for _, event := range state.Events {
			if event.Type == api.TaskTerminated {
				fmt.Fprintf(s.out, "    task %s: exit code %d\n", task, event.ExitCode)
			}
		}
	}
}

// inference starts the service, asks it something, executes a command in it, and stops it.
func (s *show) inference() error {
	err := s.nomad("job", "run", "-detach", "jobspecs/inference.nomad.hcl")
	if err != nil {
		return err
	}
	allocations, err := s.pool.AwaitJob(s.ctx, "inference", api.AllocClientStatusRunning, time.Minute)
	if err != nil {
		return err
	}
	s.describe(allocations[0])
	if allocations[0].Country != "FR" {
		return fmt.Errorf("the service runs in %s, which its constraint excludes", allocations[0].Country)
	}
	answer, err := s.pool.Ask(s.ctx, allocations[0], "/v1/embed", "idle GPUs of every country")
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "$ curl -d 'idle GPUs of every country' http://%s/v1/embed\n%s", allocations[0].HTTP, indent(answer))
	return s.nomad("job", "stop", "-purge", "inference")
}

// indent sets text off from the demo's own words.
func indent(text string) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n"
}
