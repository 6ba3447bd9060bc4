package gateway

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/federation/configfile"
	"pangaea/federation/state"
)

// Config is what an operator says about a gateway. All of it is optional.
type Config struct {
	BindAddr  string     `hcl:"bind_addr,optional"` // default 127.0.0.1
	LogLevel  string     `hcl:"log_level,optional"` // default info
	Addresses *Addresses `hcl:"addresses,block"`
	Ports     *Ports     `hcl:"ports,block"`
	Advertise *Advertise `hcl:"advertise,block"`
	TLS       *TLS       `hcl:"tls,block"`
	Consul    *Consul    `hcl:"consul,block"`
	Clocks    *Clocks    `hcl:"clocks,block"`
	Limits    *Limits    `hcl:"limits,block"`

	// Now is the clock, for tests.
	Now func() time.Time
}

// Addresses are where the gateway listens, where that is not bind_addr.
type Addresses struct {
	HTTP   string `hcl:"http,optional"`   // Nomad's API
	Tunnel string `hcl:"tunnel,optional"` // members
}

// Ports are where the gateway listens. -1 takes any free port.
type Ports struct {
	HTTP   int `hcl:"http,optional"`   // Nomad's API, default 4646
	Tunnel int `hcl:"tunnel,optional"` // members, default 4649
}

// Advertise is what others are told, where it differs from the bind address.
type Advertise struct {
	HTTP   string `hcl:"http,optional"`   // host:port that the other gateways reach the API at
	Tunnel string `hcl:"tunnel,optional"` // host:port that members dial
}

// TLS makes the API speak HTTPS.
type TLS struct {
	CertFile string `hcl:"cert_file"`
	KeyFile  string `hcl:"key_file"`
	CAFile   string `hcl:"ca_file,optional"` // authorities of the other gateways' certificates
}

// Consul says how to reach the pool's Consul.
type Consul struct {
	Address     string `hcl:"address,optional"`
	GRPCAddress string `hcl:"grpc_address,optional"` // default the same host, at address's port + 2
	TokenFile   string `hcl:"token_file,optional"`
	CAFile      string `hcl:"ca_file,optional"`
	SessionTTL  string `hcl:"session_ttl,optional"` // default 10s, Consul's least
	LockDelay   string `hcl:"lock_delay,optional"`  // default 1s
}

// Clocks are the times of a member's silence, as Go durations.
type Clocks struct {
	SuspectAfter  string `hcl:"suspect_after,optional"`  // nothing new goes there, default 5s
	DetachedAfter string `hcl:"detached_after,optional"` // allocations show "unknown", default 15s
	LostAfter     string `hcl:"lost_after,optional"`     // for jobs that say nothing, default 5m
	ReserveFor    string `hcl:"reserve_for,optional"`    // life of a reservation, default 30s
}

// Limits bound what callers can cost.
type Limits struct {
	MaxBodyBytes int64 `hcl:"max_body_bytes,optional"` // of one request, default 8 MiB
	Workers      int   `hcl:"workers,optional"`        // jobs placed at the same time, default 8
}

// LoadConfig reads a configuration file. Keys that it does not know are errors.
func LoadConfig(path string) (Config, error) {
	var config Config
	err := configfile.Decode(path, &config)
	return config, err
}

// settings is a configuration with its defaults, checked.
type settings struct {
	http, tunnel                   string
	advertiseHTTP, advertiseTunnel string
	tls                            *TLS
	suspect, detached, lost        time.Duration
	reserve                        time.Duration
	maxBody                        int64
	bodyTime                       time.Duration // longest time that a request's body may take
	relayIdle                      time.Duration // longest silence between two workers, as long as members' own relays wait
	patience                       patience
	workers                        int
	store                          state.Config
	now                            func() time.Time
}

// patience is how long the gateway waits for members.
type patience struct {
	ask        time.Duration // one command: a member's own Nomad plans and registers well within it
	nodes      time.Duration // a list of nodes, which waits for the slowest member
	look       time.Duration // a look at a member's nodes, to remember them
	deployment time.Duration // a member's deployment
}

// Validate reports every mistake in the configuration at once.
func (c Config) Validate() error {
	_, err := c.settings()
	if err != nil {
		return fmt.Errorf("cannot use the gateway's configuration: %w", err)
	}
	return nil
}

func (c Config) settings() (settings, error) {
	addresses := orZero(c.Addresses)
	ports, advertise, clocks, limits, consul := orZero(c.Ports), orZero(c.Advertise), orZero(c.Clocks), orZero(c.Limits), orZero(c.Consul)
	var errs []error
	duration := func(name, text string, def time.Duration) time.Duration {
		if text == "" {
			return def
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			errs = append(errs, fmt.Errorf("%s = %q is no duration above zero: write it like \"15s\"", name, text))
		}
		return d
	}
	host := or(c.BindAddr, "127.0.0.1")
	s := settings{
		http: join(or(addresses.HTTP, host), ports.HTTP, 4646), tunnel: join(or(addresses.Tunnel, host), ports.Tunnel, 4649),
		advertiseHTTP: advertise.HTTP, advertiseTunnel: advertise.Tunnel, tls: c.TLS,
		suspect:  duration("clocks.suspect_after", clocks.SuspectAfter, 5*time.Second),
		detached: duration("clocks.detached_after", clocks.DetachedAfter, 15*time.Second),
		lost:     duration("clocks.lost_after", clocks.LostAfter, 5*time.Minute),
		reserve:  duration("clocks.reserve_for", clocks.ReserveFor, 30*time.Second),
		maxBody:  or(limits.MaxBodyBytes, 8<<20), bodyTime: 30 * time.Second, relayIdle: 12 * time.Hour,
		patience: patience{ask: 15 * time.Second, nodes: 3 * time.Second, look: 10 * time.Second, deployment: 5 * time.Second},
		workers:  or(limits.Workers, 8), now: c.Now,
		store: state.Config{
			Address: consul.Address, GRPCAddress: consul.GRPCAddress, TokenFile: consul.TokenFile, CAFile: consul.CAFile,
			SessionTTL: duration("consul.session_ttl", consul.SessionTTL, 10*time.Second),
			LockDelay:  duration("consul.lock_delay", consul.LockDelay, time.Second),
		},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.detached < s.suspect {
		errs = append(errs, errors.New("clocks.detached_after is before clocks.suspect_after: a member is suspected first"))
	}
	if hclog.LevelFromString(or(c.LogLevel, "info")) == hclog.NoLevel {
		errs = append(errs, fmt.Errorf("log_level %q: use trace, debug, info, warn, error or off", c.LogLevel))
	}
	if limits.Workers < 0 || limits.MaxBodyBytes < 0 {
		errs = append(errs, errors.New("limits must not be negative"))
	}
	return s, errors.Join(errs...)
}

func join(host string, port, def int) string {
	return net.JoinHostPort(host, strconv.Itoa(max(or(port, def), 0)))
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func orZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
