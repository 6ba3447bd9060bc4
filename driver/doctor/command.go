package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"pangaea/driver"
)

const usage = `Usage: pangaea doctor [options]

  Looks at this host as Nomad, its plugins and a pool need it, and says for
  each thing whether it is ok, and if not, how to mend it. It changes nothing.
  As root it sees everything; otherwise it says what it could not look at.

  Exit status: 0 nothing fails (there may be warnings), 1 something fails,
  2 wrong usage.

  -json            print findings as JSON: area, name, verdict, seen, fix
  -config PATH     Nomad's configuration, a file or directory; may be repeated.
                   Default: that of the agent that runs, or else /etc/nomad.d
  -address URL     Nomad's agent on this host. Default: $NOMAD_ADDR, or
                   http://127.0.0.1:4646
  -token-file FILE a token with agent:read and node:read. Default:
                   $NOMAD_TOKEN_FILE, or the token in $NOMAD_TOKEN
  -consul URL      the pool's Consul, to compare clocks with. Default:
                   $CONSUL_HTTP_ADDR, or none
`

// answerTime bounds what one answer of an agent may take: it is asked where something is wrong, maybe for want of time.
const answerTime = 15 * time.Second

// patience is how long all checks together may take; the GPU driver's calls alone can take seconds.
const patience = time.Minute

type options struct {
	json      bool
	config    []string
	address   string
	tokenFile string
	consul    string
}

// Command is "pangaea doctor" with the device plugin given; it returns the exit status.
func Command(args []string, stdout, stderr io.Writer, gpus Plugin) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "%v; see pangaea doctor -h\n", err)
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHost()
	n := h.findNomad(o.config)
	err = n.connect(ctx, o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	runc := driver.New(hclog.NewNullLogger())
	defer runc.Shutdown()
	findings := Examine(ctx, h, n, runc, gpus)
	if o.json {
		err = writeJSON(stdout, findings)
	} else {
		err = writeText(stdout, findings)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return status(findings)
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller tells
	flags.BoolVar(&o.json, "json", false, "")
	flags.Func("config", "", func(path string) error { o.config = append(o.config, path); return nil })
	flags.StringVar(&o.address, "address", "", "")
	flags.StringVar(&o.tokenFile, "token-file", os.Getenv("NOMAD_TOKEN_FILE"), "")
	flags.StringVar(&o.consul, "consul", os.Getenv("CONSUL_HTTP_ADDR"), "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("doctor takes no argument %q", flags.Arg(0))
	}
	if o.consul != "" && !strings.Contains(o.consul, "://") {
		o.consul = "http://" + o.consul
	}
	return o, err
}

// connect prepares to ask the agent, and finds out where a server is.
func (n *nomad) connect(ctx context.Context, o options) error {
	config := api.DefaultConfig()
	if o.address != "" {
		config.Address = o.address
	}
	if o.tokenFile != "" {
		token, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return fmt.Errorf("cannot read Nomad's token: %w", err)
		}
		config.SecretID = strings.TrimSpace(string(token))
	}
	config.HttpClient = &http.Client{Timeout: answerTime, Transport: http.DefaultTransport.(*http.Transport).Clone()}
	err := api.ConfigureTLS(config.HttpClient, config.TLSConfig)
	if err != nil {
		return fmt.Errorf("cannot speak TLS to Nomad: %w", err)
	}
	n.client, err = api.NewClient(config)
	if err != nil {
		return fmt.Errorf("cannot speak to Nomad at %s: %w", config.Address, err)
	}
	n.address, n.consul = config.Address, o.consul
	var leader string
	_, err = n.client.Raw().Query("/v1/status/leader", &leader, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil {
		n.server = besideRPC(leader, n.address)
	}
	return nil
}

// Examine makes all checks.
func Examine(ctx context.Context, h Host, n nomad, runc, gpus Plugin) []Finding {
	checks := []func(context.Context, Host, nomad) []Finding{
		checkHost, checkKernel, checkCgroups, checkInstall, checkProcess, checkAgent,
		func(ctx context.Context, _ Host, n nomad) []Finding {
			return examine(ctx, "driver runc", runc, n.conf.plugins[driverName])
		},
		func(ctx context.Context, _ Host, n nomad) []Finding {
			return examine(ctx, "device nvidia/gpu", gpus, n.conf.plugins[deviceName])
		},
		checkNetwork, checkPorts, checkClock,
	}
	var all []Finding
	for _, check := range checks {
		all = append(all, check(ctx, h, n)...)
	}
	return all
}
