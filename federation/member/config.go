package member

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/federation/configfile"
	"pangaea/federation/nomad"
	"pangaea/federation/pool"
	"pangaea/federation/relay"
	"pangaea/federation/state"
	"pangaea/federation/tunnel"
)

// Config is a member agent's configuration file.
type Config struct {
	Alias     string   `hcl:"alias"`     // the member's name in the pool, such as "fr-par-1"
	Country   string   `hcl:"country"`   // ISO 3166-1 alpha-2, such as "FR"
	Continent string   `hcl:"continent"` // AF, AN, AS, EU, NA, OC or SA
	Region    string   `hcl:"region,optional"`
	Price     float64  `hcl:"price,optional"` // of one GPU for one hour, in the pool's unit
	Gateways  []string `hcl:"gateways"`       // host:port of every gateway's tunnel

	// NamespacePrefix begins the names of the Nomad namespaces that pool jobs run in.
	NamespacePrefix string `hcl:"namespace_prefix,optional"`
	LogLevel        string `hcl:"log_level,optional"`

	Consul *ConsulConfig `hcl:"consul,block"` // the pool's Consul, for this member's certificate
	Nomad  *nomad.Config `hcl:"nomad,block"`  // the member's own Nomad
	Policy *Policy       `hcl:"policy,block"`
	Relay  *RelayConfig  `hcl:"relay,block"`
}

// ConsulConfig says how to reach the pool's Consul.
type ConsulConfig struct {
	Address     string `hcl:"address,optional"`
	GRPCAddress string `hcl:"grpc_address,optional"` // default the same host, at address's port + 2
	TokenFile   string `hcl:"token_file,optional"`
	CAFile      string `hcl:"ca_file,optional"`
}

// RelayConfig says where the workers of gangs reach the agent.
type RelayConfig struct {
	BindAddr      string `hcl:"bind_addr,optional"`      // default 127.0.0.1
	AdvertiseAddr string `hcl:"advertise_addr,optional"` // default bind_addr
	PortMin       int    `hcl:"port_min,optional"`       // default 14000
	PortMax       int    `hcl:"port_max,optional"`       // default 14999
}

// defaultPrefix keeps pool jobs apart from the owner's.
const defaultPrefix = "pool-"

// Load reads and validates a configuration file.
func Load(path string) (Config, error) {
	var config Config
	err := configfile.Decode(path, &config)
	if err != nil {
		return config, err
	}
	config = config.withDefaults()
	return config, config.Validate()
}

func (c Config) withDefaults() Config {
	if c.NamespacePrefix == "" {
		c.NamespacePrefix = defaultPrefix
	}
	if c.Consul == nil {
		c.Consul = &ConsulConfig{}
	}
	if c.Nomad == nil {
		c.Nomad = &nomad.Config{}
	}
	if c.Policy == nil {
		c.Policy = &Policy{}
	}
	policy := c.Policy.withDefaults()
	c.Policy = &policy
	if c.Relay == nil {
		c.Relay = &RelayConfig{}
	}
	if c.Relay.BindAddr == "" {
		r := *c.Relay
		r.BindAddr = "127.0.0.1"
		c.Relay = &r
	}
	return c
}

// Validate reports everything that is wrong with a configuration at once.
func (c Config) Validate() error {
	errs := c.badGateways()
	for _, check := range []struct {
		ok   bool
		text string
	}{
		{tunnel.ValidAlias(c.Alias), fmt.Sprintf("alias %q: use up to 40 lower-case letters, digits and dashes", c.Alias)},
		{regexp.MustCompile(`^[A-Z]{2}$`).MatchString(c.Country), fmt.Sprintf("country %q: use two upper-case letters, such as FR", c.Country)},
		{slices.Contains(continents(), c.Continent), fmt.Sprintf("continent %q: use one of %s", c.Continent, strings.Join(continents(), ", "))},
		{hclog.LevelFromString(orInfo(c.LogLevel)) != hclog.NoLevel, fmt.Sprintf("log_level %q: use trace, debug, info, warn, error or off", c.LogLevel)},
		{c.Price >= 0, fmt.Sprintf("price %g: use 0 or more", c.Price)},
		{c.NamespacePrefix == "" || state.ValidNamespace(c.NamespacePrefix), fmt.Sprintf("namespace_prefix %q: use letters, digits and dashes", c.NamespacePrefix)},
		{c.Relay == nil || c.Relay.validPorts(), "relay: port_min and port_max are not a range of ports"},
	} {
		if !check.ok {
			errs = append(errs, errors.New(check.text))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot use the configuration: %w", errors.Join(errs...))
	}
	return nil
}

func (c Config) badGateways() []error {
	if len(c.Gateways) == 0 {
		return []error{errors.New("gateways: name at least one host:port")}
	}
	var errs []error
	for _, address := range c.Gateways {
		_, _, err := net.SplitHostPort(address)
		if err != nil {
			errs = append(errs, fmt.Errorf("gateways: %q is not host:port", address))
		}
	}
	return errs
}

func (r RelayConfig) validPorts() bool {
	return r.PortMin >= 0 && r.PortMin <= r.PortMax && r.PortMax <= 65535
}

func continents() []string { return []string{"AF", "AN", "AS", "EU", "NA", "OC", "SA"} }

func (c Config) place() pool.Place {
	return pool.Place{Country: c.Country, Continent: c.Continent, Region: c.Region}
}

func (c Config) stateConfig() state.Config {
	return state.Config{
		Address: c.Consul.Address, GRPCAddress: c.Consul.GRPCAddress, TokenFile: c.Consul.TokenFile, CAFile: c.Consul.CAFile,
	}
}

func (c Config) relayConfig() relay.Config {
	return relay.Config{
		BindAddr: c.Relay.BindAddr, AdvertiseAddr: c.Relay.AdvertiseAddr,
		PortMin: c.Relay.PortMin, PortMax: c.Relay.PortMax,
	}
}

// heartbeatDefault is used until a gateway names its own.
const heartbeatDefault = 2 * time.Second
