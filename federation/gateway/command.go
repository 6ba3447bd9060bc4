package gateway

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

const usage = `Usage: pangaea gateway [-check] [-config FILE]

  Runs a gateway: the pool's front door, which speaks Nomad's HTTP API. Point
  NOMAD_ADDR at it. Any number of gateways may run; one leads.

  -check         say whether the configuration can be used, and exit
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
      ca_file      = "FILE"
      session_ttl  = "10s"     # of the leader's lock; Consul takes no less
      lock_delay   = "1s"
    }
    clocks {
      suspect_after  = "5s"    # a silent member gets nothing new
      detached_after = "15s"   # its allocations show "unknown"
      lost_after     = "5m"    # jobs without a disconnect block move elsewhere
      reserve_for    = "30s"   # how long a member holds room for a placement
    }
    tls {                      # the API speaks HTTPS
      cert_file = "FILE"
      key_file  = "FILE"
      ca_file   = "FILE"       # authorities of the other gateways
    }
    limits {
      max_body_bytes = 8388608
      workers        = 8       # jobs placed at the same time
    }

  Exit status: 0 after SIGTERM, 1 failed, for the reason given, 2 wrong usage.
`

// Command is "pangaea gateway": it runs a gateway until it is told to stop and returns the exit status.
func Command(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // we tell
	path := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("gateway takes no argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "%v; see pangaea gateway -h\n", err)
		return 2
	}
	var config Config
	if *path != "" {
		config, err = LoadConfig(*path)
	}
	if err == nil {
		err = config.Validate()
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if *check {
		fmt.Fprintf(stdout, "%s can be used\n", or(*path, "the default configuration"))
		return 0
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "gateway", Level: hclog.LevelFromString(or(config.LogLevel, "info")), Output: stderr})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = Run(ctx, config, logger)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}
