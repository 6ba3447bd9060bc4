package gateway

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

const usage = `Usage: pangaea gateway [-config FILE]

  Runs a gateway: the pool's front door, which speaks Nomad's HTTP API. Point
  NOMAD_ADDR at it. Any number of gateways may run; one leads.

  -config FILE   HCL file; without one every option has its default:

    bind_addr = "127.0.0.1"
    log_level = "info"
    addresses {                # where not bind_addr
      http   = "ADDRESS"
      tunnel = "ADDRESS"
    }
    ports {
      http   = 4646            # Nomad's API
      tunnel = 4649            # members
    }
    advertise {
      http   = "HOST:PORT"     # where other gateways reach this one's API
      tunnel = "HOST:PORT"     # where members reach it
    }
    consul {
      address      = "127.0.0.1:8500"
      grpc_address = "127.0.0.1:8502"
      token_file   = "FILE"    # ACL token of the gateway
    }
    clocks {
      suspect_after  = "5s"    # a silent member gets nothing new
      detached_after = "15s"   # its allocations show "unknown"
      lost_after     = "5m"    # jobs without a disconnect block move elsewhere
    }
    tls {
      cert_file = "FILE"
      key_file  = "FILE"
    }
    limits {
      max_body_bytes = 8388608
      workers        = 8
    }
`

// Command is "pangaea gateway": it runs a gateway until it is told to stop and returns the exit status.
func Command(args []string) int {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	path := flags.String("config", "", "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil || flags.NArg() > 0 {
		if err == nil {
			fmt.Fprintf(os.Stderr, "gateway takes no argument %q\n", flags.Arg(0))
		}
		return 2
	}
	var config Config
	if *path != "" {
		config, err = LoadConfig(*path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "gateway", Level: hclog.LevelFromString(or(config.LogLevel, "info")), Output: os.Stderr})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = Run(ctx, config, logger)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
