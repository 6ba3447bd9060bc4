package member

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

const usage = `Usage: pangaea member [-check] -config FILE

  Lends a Nomad cluster to a pool: runs beside the cluster's servers, dials the
  pool's gateways, and registers with the cluster's own Nomad what the pool
  places there.

  -check         say whether the configuration can be used, and exit
  -config FILE   HCL file. What is shown without a comment has to be there,
                 the rest is optional and shown with its default:

    alias     = "fr-par-1"       # the member's name in the pool
    country   = "FR"             # ISO 3166-1
    continent = "EU"             # AF, AN, AS, EU, NA, OC or SA
    gateways  = ["HOST:PORT"]    # the tunnels of all gateways
    region    = ""               # as you like; ${meta.pool.region} in jobs
    price     = 0                # of one GPU for one hour
    log_level = "info"
    namespace_prefix = "pool-"   # of Nomad's namespaces that pool jobs run in
    consul {                     # the pool's
      address      = "127.0.0.1:8500"
      grpc_address = "127.0.0.1:8502"
      token_file   = "FILE"      # token of service "pangaea-member-ALIAS"
      ca_file      = "FILE"
    }
    nomad {                      # this cluster's
      address    = "http://127.0.0.1:4646"
      token_file = "FILE"
      ca_file    = "FILE"
      cert_file  = "FILE"        # if Nomad wants a client certificate
      key_file   = "FILE"
    }
    policy {                     # the owner's last word on the pool's jobs
      allow_drivers      = ["runc"]
      allow_host_volumes = []
      allow_node_pools   = []    # default: all
      allow_vault     = false
      allow_consul    = false    # services in, and keys of, your Consul
      allow_csi       = false
      allow_artifacts = false    # downloads by your hosts, from what they reach
      allow_identity  = false    # tokens of your Nomad in a task's hands
      deny_namespaces = []       # of the pool
      deny_group_networks = false # no bridge or CNI networks: no ports, services
                                 # or gangs; tasks still reach the internet
      max_priority  = 50         # higher is lowered to it
      max_count     = 0          # allocations of one job; 0 is no limit
      max_cpu       = 0          # MHz of one allocation
      max_memory_mb = 0          # of one allocation
    }
    relay {                      # where workers of gangs reach this agent
      bind_addr      = "127.0.0.1"
      advertise_addr = "ADDRESS" # default: bind_addr
      port_min       = 14000
      port_max       = 14999
    }

  Exit status: 0 after SIGTERM, 1 failed, for the reason given, 2 wrong usage.
`

// Command runs "pangaea member" and returns the exit status: 0 after a signal, 1 for a failure, 2 for wrong usage.
func Command(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("member", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // we tell
	path := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("member takes no argument %q", flags.Arg(0))
	case err == nil && *path == "":
		err = errors.New("name the configuration with -config FILE")
	}
	if err != nil {
		fmt.Fprintf(stderr, "%v; see pangaea member -h\n", err)
		return 2
	}
	config, err := Load(*path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if *check {
		fmt.Fprintf(stdout, "%s can be used\n", *path)
		return 0
	}
	return serve(config, stderr)
}

func serve(config Config, stderr io.Writer) int {
	logger := hclog.New(&hclog.LoggerOptions{Name: "member", Level: hclog.LevelFromString(orInfo(config.LogLevel)), Output: stderr})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger.Info("member agent starts", "alias", config.Alias, "gateways", config.Gateways)
	err := Run(ctx, config, logger)
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
