package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// Config says how to reach the pool's Consul. Its zero value means the agent on this host without a token.
type Config struct {
	Address string `hcl:"address,optional"` // host:port, http(s)://host:port or unix:///path
	// GRPCAddress is host:port of Consul's gRPC API, where certificates are signed; by default Address's host and its
	// port + 2, as in Consul's own 8500 and 8502.
	GRPCAddress string `hcl:"grpc_address,optional"`

	Token     string `hcl:"token,optional"`      // for tests; TokenFile keeps secrets out of configuration
	TokenFile string `hcl:"token_file,optional"` // file that holds the ACL token
	CAFile    string `hcl:"ca_file,optional"`    // authorities of Consul's HTTPS certificate

	Logger      hclog.Logger
	SessionTTL  time.Duration // of the leader's session, 10 s (Consul's least) when 0
	LockDelay   time.Duration // how long nobody may lead after a leader vanished, 1 s when 0
	AccessCache time.Duration // how long an access decision is kept, 10 s when 0
}

// Store is the pool's state. It is safe for concurrent use and starts no goroutine by itself.
type Store struct {
	address string
	client  *api.Client
	logger  hclog.Logger
	config  Config
	access  *accessCache
	signer  *signer
	succeed sync.Once
}

// Open prepares a store. It does not connect: Consul may be started later, and each call says so if it is away.
func Open(config Config) (*Store, error) {
	if config.Logger == nil {
		config.Logger = hclog.NewNullLogger()
	}
	orDuration(&config.SessionTTL, 10*time.Second)
	orDuration(&config.LockDelay, time.Second)
	orDuration(&config.AccessCache, 10*time.Second)
	token := config.Token
	if config.TokenFile != "" {
		text, err := os.ReadFile(config.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read consul.token_file: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	clientConfig := &api.Config{
		Address: config.Address, Token: token,
		Transport: transport(),
		TLSConfig: api.TLSConfig{CAFile: config.CAFile},
	}
	client, err := api.NewClient(clientConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot use consul.address %q: %w", config.Address, err)
	}
	signer, err := newSigner(config, clientConfig.Scheme+"://"+clientConfig.Address, clientConfig.Token)
	if err != nil {
		return nil, err
	}
	return &Store{
		address: clientConfig.Address, client: client, logger: config.Logger, config: config, signer: signer,
		access: newAccessCache(config.AccessCache, time.Now),
	}, nil
}

// transport gives up on a Consul that does not take the connection within 3 s instead of the library's 30 s. There is
// no bound on answers: blocking queries wait for minutes.
func transport() *http.Transport {
	return &http.Transport{
		Proxy:               nil, // a token must never go to a proxy that the environment happens to name
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
	}
}

// Address is where this store reaches Consul.
func (s *Store) Address() string { return s.address }

// anonymous is the secret of Consul's built-in token for those who have none.
const anonymous = "anonymous"

// userToken never returns the empty string: Consul's client would then send the gateway's own token instead, and the
// local agent its default one, and a user without a token would have their rights.
func userToken(token string) string {
	if token == "" {
		return anonymous
	}
	return token
}

func write(ctx context.Context, token string) *api.QueryOptions {
	return (&api.QueryOptions{Token: token}).WithContext(ctx)
}

// read asks the leader of Consul, so that a gateway never acts on a state older than what it wrote itself.
func read(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Ready tells whether Consul answers and has a leader, with an error that names the next step.
func (s *Store) Ready(ctx context.Context) error {
	_, _, err := s.client.KV().Get("pangaea/ready", read(ctx))
	if errors.Is(s.translate("", err), ErrPermission) {
		return fmt.Errorf("cannot read the pool's state: %w by Consul at %s: give consul.token_file a token with the gateway's policy", ErrPermission, s.address)
	}
	return s.translate("read the pool's state", err)
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}
