// Command dev runs a pool of three countries on this machine: "demo" runs the jobs of jobspecs/ on it and takes it
// down, "dev" leaves it up until Ctrl-C, "bench" measures on it, and "bench-driver" measures on one node without a pool.
// The GNUmakefile builds what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"pangaea/e2e/bench"
	"pangaea/e2e/devpool"
)

const usage = `Usage: dev [-bin DIR] [-json FILE] [-only TEXT] demo | dev | bench | bench-driver

  demo          bring up a pool, run the jobs of jobspecs/ on it, show what happened, take it down
  dev           bring up a pool and leave it up until Ctrl-C or SIGTERM
  bench         measure on a pool; see make bench
  bench-driver  measure the driver beside its peers on one node; see make bench-driver

  -bin DIR      where the programs are, and the peers' below DIR/peers; default bin
  -json FILE    where the benches also write every single value
  -only TEXT    of bench-driver, measure only what has this text in its name: StartTask, network, runsc, stop,
                alloc exec, 100 tasks, idle tasks or pull

Through make: make bench-driver PEERS="docker podman" ONLY=pull JSON=figures.json
`

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == bench.PullVerb {
		os.Exit(pull(args[1:]))
	}
	if len(args) == 0 || args[0] != workVerb {
		status, err := attend(args)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(status)
	}
	surviveReader()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, args[1:], os.Stdout, os.Stderr))
}

// pull is how the bench has our own pulls done: in a process that holds nothing else.
func pull(args []string) int {
	if len(args) != 2 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := bench.Pull(context.Background(), os.Stdout, args[0], args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// run returns the exit status: 0 when every step held, 1 when one did not, 2 for wrong arguments.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("dev", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	bin := flags.String("bin", "bin", "directory of the programs")
	only := flags.String("only", "", "part of the name of what bench-driver measures")
	json := flags.String("json", "", "file for the benches' values")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil || flags.NArg() != 1 {
		flags.Usage()
		return 2
	}
	verbs := map[string]verb{
		"demo": {do: demo},
		"dev":  {do: wait},
		"bench": {isBench: true, do: func(ctx context.Context, pool *devpool.Pool, out io.Writer) error {
			found, err := bench.Pool(ctx, pool, out)
			return report(out, found, *json, err)
		}},
	}
	v, ok := verbs[flags.Arg(0)]
	switch {
	case ok:
		err = withPool(ctx, *bin, stdout, v)
	case flags.Arg(0) == "bench-driver":
		var found bench.Report
		found, err = bench.Driver(ctx, bench.Options{Bin: *bin, Only: *only, Out: stdout})
		err = report(stdout, found, *json, err)
	default:
		flags.Usage()
		return 2
	}
	if err != nil {
		fmt.Fprintf(stderr, "\n%s: %v\n", flags.Arg(0), err)
		return 1
	}
	return 0
}

// verb is what to do with a pool that is up.
type verb struct {
	isBench bool
	do      func(ctx context.Context, pool *devpool.Pool, out io.Writer) error
}

// withPool does something with a pool and takes the pool down, whatever happened.
func withPool(ctx context.Context, bin string, out io.Writer, v verb) (err error) {
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("cannot find the source tree: %w", err)
	}
	tools, err := devpool.FindTools(bin)
	if err != nil {
		return err
	}
	pool, err := devpool.Start(ctx, devpool.Config{
		Root: root, Dir: filepath.Join(root, ".dev"), Tools: tools, Members: devpool.Countries(), Progress: out, Bench: v.isBench,
	})
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(out, "==> taking the pool down")
		stopErr := pool.Stop(context.WithoutCancel(ctx))
		if err == nil && stopErr != nil {
			err = fmt.Errorf("the pool did not go down cleanly: %w", stopErr)
		}
	}()
	return v.do(ctx, pool, out)
}

// report prints what a bench measured as one table and writes it to a file if there is one: also what it has measured
// before it failed with err.
func report(out io.Writer, found bench.Report, json string, err error) error {
	if err != nil && len(found.Rows) == 0 {
		return err
	}
	fmt.Fprintln(out)
	err = errors.Join(err, bench.Print(out, found, "exec"))
	if json != "" {
		err = errors.Join(err, bench.WriteJSON(json, found))
	}
	return err
}

// wait leaves the pool up until the user has had enough.
func wait(ctx context.Context, pool *devpool.Pool, out io.Writer) error {
	path, err := pool.WriteEnv()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
The pool is up. In another terminal:

  source %s
  nomad node status
  nomad job run jobspecs/hello-gpu.nomad.hcl
  nomad job status hello-gpu

Logs are in %s. Ctrl-C takes everything down.
`, path, filepath.Join(pool.Dir, "logs"))
	<-ctx.Done()
	fmt.Fprintln(out)
	return nil
}
