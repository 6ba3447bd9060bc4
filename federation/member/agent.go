package member

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/federation/nomad"
	"pangaea/federation/relay"
	"pangaea/federation/state"
	"pangaea/federation/tunnel"
)

// Version is told to gateways; the main program may set it in [Agent.Version].
const Version = "dev"

// Agent is a running member agent without its tunnels. Make it with [New], own it with Run, and give it sessions with
// Serve.
type Agent struct {
	// identified is closed once the pool's Consul has confirmed the alias: an agent that only claims it must not write
	// it on the nodes. Nil means that nobody asks.
	identified chan struct{}

	Version string

	config     Config
	logger     hclog.Logger
	cluster    Cluster
	words      words
	watcher    *watcher
	book       *reservations
	placements *placements
	contact    *contact
	relay      *relay.Relay
	forward    forwarder

	mu       sync.Mutex
	sessions map[*tunnel.Session]bool
}

// forwarder makes the handler that passes judged requests to Nomad.
type forwarder func(modify func(*http.Response) error) http.Handler

// New returns an agent over the member's own Nomad.
func New(config Config, client *nomad.Client, logger hclog.Logger) *Agent {
	return newAgent(config, client, func(modify func(*http.Response) error) http.Handler {
		return client.Forward(logger.Named("nomad"), modify)
	}, logger)
}

func newAgent(config Config, cluster Cluster, forward forwarder, logger hclog.Logger) *Agent {
	config = config.withDefaults()
	w := words{prefix: config.NamespacePrefix}
	a := &Agent{
		Version: Version, config: config, logger: logger, cluster: cluster, words: w, forward: forward,
		watcher: newWatcher(newFetcher(cluster, w), logger), book: newReservations(time.Now),
		contact: newContact(bootTime), sessions: map[*tunnel.Session]bool{},
	}
	a.relay = relay.New(config.relayConfig(), a.dialRank, logger.Named("relay"))
	a.placements = &placements{
		config: config, words: w, cluster: cluster, watcher: a.watcher, book: a.book, relay: a.relay, now: time.Now,
		logger: logger, locks: map[jobKey]*sync.Mutex{}, spaces: map[string]bool{},
	}
	return a
}

// Run watches the cluster, keeps its nodes' metadata, the relay's ports and the leases, until the context ends.
func (a *Agent) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer a.relay.Close()
	defer group.Wait()
	guard := &guard{placements: a.placements, contact: a.contact, renewed: map[jobKey]time.Duration{}}
	group.Go(func() { a.watcher.Run(ctx) })
	group.Go(func() { guard.Run(ctx) })
	marker := &nodeMarker{
		cluster: a.cluster, want: a.config.poolMeta(), logger: a.logger, now: time.Now, tried: map[string]time.Time{},
	}
	identified := a.identified
	for {
		snapshot, changed := a.watcher.Current()
		if snapshot != nil {
			a.placements.reopen(snapshot)
		}
		if snapshot != nil && identified == nil {
			marker.mark(ctx, snapshot)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-identified:
			identified = nil
		}
	}
}

// Run runs a member agent with tunnels to all its gateways until the context ends.
func Run(ctx context.Context, config Config, logger hclog.Logger) error {
	config = config.withDefaults()
	err := config.Validate()
	if err != nil {
		return err
	}
	client, err := nomad.Open(*config.Nomad)
	if err != nil {
		return err
	}
	stateConfig := config.stateConfig()
	stateConfig.Logger = logger.Named("consul")
	store, err := state.Open(stateConfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	agent := New(config, client, logger)
	agent.identified = make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { _ = agent.Run(ctx) })
	identity, err := identify(ctx, store, tunnel.MemberService(config.Alias), logger)
	if err != nil {
		return err
	}
	close(agent.identified)
	defer identity.Wait()
	defer cancel()
	tunnelConfig := tunnel.Config{Identity: identity, Peer: tunnel.AcceptGateway, Logger: logger.Named("tunnel")}
	for _, address := range config.Gateways {
		group.Go(func() { tunnel.Run(ctx, address, tunnelConfig, tunnel.Backoff{}, agent.Serve) })
	}
	<-ctx.Done()
	return nil
}

// identify waits for Consul as long as it is away: an agent that is started first must not fail. A token without the
// right is an error at once, since waiting would not mend it.
func identify(ctx context.Context, store *state.Store, service string, logger hclog.Logger) (*state.Identity, error) {
	told := ""
	for {
		identity, err := store.Identity(ctx, service)
		if err == nil {
			return identity, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, state.ErrPermission) {
			return nil, fmt.Errorf("cannot join the pool: %w", err)
		}
		if err.Error() != told {
			told = err.Error()
			logger.Warn("no certificate yet, trying again", "error", err)
		}
		pause(ctx, time.Second)
	}
}
