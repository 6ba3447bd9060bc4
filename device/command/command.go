package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pangaea/device/control"
)

const usage = `Usage: pangaea gpu status  [-json] [GPU...]
       pangaea gpu reclaim [-json] [-timeout 5m] [-keep] [-note TEXT] [GPU...]
       pangaea gpu release [-json] [-timeout 1m] [GPU...]

  A GPU is a UUID or the beginning of one, a bus id, or an index as nvidia-smi
  shows it. None means all, those that are plugged in later included.

  status   shows each GPU: whether it is offered, why not, its owner's programs
           and Nomad's tasks on it
  reclaim  takes GPUs for their owner: they are not offered any more, their
           tasks are stopped through Nomad, and it returns when they are free
  release  offers them again, and returns when they are

  -control-dir DIR  the device plugin's control_dir; default /var/lib/pangaea/device
  -json             print the GPUs as JSON in the end
  -timeout TIME     how long to wait; what was asked stays in force after it
  -keep             let the tasks end by themselves
  -note TEXT        a reason, which Nomad's users will read

  Exit status: 0 done, 1 not done, for the reason given, 2 wrong usage.
`

// look is how often the plugin's status is read; it looks at the control directory itself every second or so.
const look = 100 * time.Millisecond

// desk is one call of the command.
type desk struct {
	dir     control.Dir
	out     io.Writer
	json    bool
	timeout time.Duration
	keep    bool
	note    string
	names   []string
}

// Run is "pangaea gpu" with its arguments; it returns the exit status.
func Run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	verbs := map[string]func(*desk, context.Context) error{"status": (*desk).status, "reclaim": (*desk).reclaim, "release": (*desk).release}
	do, ok := verbs[args[0]]
	switch {
	case args[0] == "-h" || args[0] == "-help" || args[0] == "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case !ok:
		fmt.Fprintf(stderr, "gpu has no command %q; see pangaea gpu -h\n", args[0])
		return 2
	}
	d, err := parse(args[0], args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "%v; see pangaea gpu -h\n", err)
		return 2
	}
	d.out = stdout
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = do(d, ctx)
	if err != nil {
		fmt.Fprintln(stderr, printable(err.Error()))
		return 1
	}
	return 0
}

func parse(verb string, args []string) (*desk, error) {
	d := &desk{}
	flags := flag.NewFlagSet("gpu "+verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller tells
	dir := flags.String("control-dir", string(control.Default), "")
	flags.BoolVar(&d.json, "json", false, "")
	switch verb {
	case "reclaim":
		flags.DurationVar(&d.timeout, "timeout", 5*time.Minute, "")
		flags.BoolVar(&d.keep, "keep", false, "")
		flags.StringVar(&d.note, "note", "", "")
	case "release":
		flags.DurationVar(&d.timeout, "timeout", time.Minute, "")
	}
	err := flags.Parse(args)
	d.dir, d.names = control.Dir(*dir), flags.Args()
	return d, err
}
