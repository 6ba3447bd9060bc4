package member

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

const usage = `Usage: pangaea member -config FILE

Lends a Nomad cluster to a pool: runs beside the cluster's servers, dials the pool's gateways, and registers with the
cluster's own Nomad what the pool places there.

`

// Command runs "pangaea member" and returns the exit status: 0 after a signal, 1 for a failure, 2 for wrong usage.
func Command(args []string) int {
	flags := flag.NewFlagSet("member", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	path := flags.String("config", "", "configuration `file` in HCL")
	check := flags.Bool("check", false, "check the configuration and exit")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil || *path == "" || flags.NArg() > 0 {
		if err == nil {
			flags.Usage()
		}
		return 2
	}
	config, err := Load(*path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if *check {
		return 0
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "member", Level: hclog.LevelFromString(orInfo(config.LogLevel))})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger.Info("member agent starts", "alias", config.Alias, "gateways", config.Gateways)
	err = Run(ctx, config, logger)
	if err != nil && ctx.Err() == nil {
		logger.Error("member agent has failed", "error", err)
		return 1
	}
	return 0
}

func orInfo(level string) string {
	if level == "" {
		return "info"
	}
	return level
}
