package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/federation/state"
	"pangaea/federation/tunnel"
)

// Version is what the gateway tells about itself.
const Version = "0.1.0"

// tickEvery is how fine the members' clocks are.
const tickEvery = 250 * time.Millisecond

// Run is a gateway from start to end of the context. It returns at once if it cannot take its ports, and keeps running
// through every later outage of Consul and of members.
func Run(ctx context.Context, config Config, logger hclog.Logger) error {
	s, err := config.settings()
	if err != nil {
		return fmt.Errorf("cannot use the gateway's configuration: %w", err)
	}
	serverConfig, clientConfig, err := serverTLS(s.tls)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.http)
	if err != nil {
		return fmt.Errorf("cannot listen for the API on %s: %w: choose another port with ports.http or stop what holds it", s.http, err)
	}
	defer listener.Close()
	if s.advertiseHTTP == "" {
		s.advertiseHTTP = listener.Addr().String()
	}
	s.store.Logger = logger.Named("state")
	store, err := state.Open(s.store)
	if err != nil {
		return err
	}
	g := newGateway(s, store, logger)
	transport := &http.Transport{TLSClientConfig: clientConfig, MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	// The API answers from the first moment, if only to say what is missing.
	group.Go(func() { cancel(serveHTTP(ctx, listener, serverConfig, g.front(g.routes(), transport), logger)) })
	err = g.serve(ctx, store)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// serve takes part in the pool until the context ends: it accepts members, and leads when it is its turn.
func (g *Gateway) serve(ctx context.Context, store *state.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	identity, err := g.waitIdentity(ctx, store)
	if err != nil || identity == nil {
		return err
	}
	defer identity.Wait()
	defer cancel()
	tunnels, err := tunnel.Listen(g.settings.tunnel, tunnel.Config{Identity: identity, Peer: tunnel.AcceptMembers, Logger: g.logger.Named("tunnel")})
	if err != nil {
		return err
	}
	defer func() { _ = tunnels.Close() }()
	record := state.GatewayRecord{
		ID: newID(), HTTPAddr: g.settings.advertiseHTTP, TunnelAddr: or(g.settings.advertiseTunnel, tunnels.Addr().String()), Version: Version,
	}
	g.logger.Info("gateway is up", "http", record.HTTPAddr, "tunnel", record.TunnelAddr, "consul", store.Address())
	group.Go(func() { _ = store.Register(ctx, record) })
	group.Go(func() { g.campaign(ctx, store, record) })
	group.Go(func() { g.followLeader(ctx, store) })
	group.Go(func() { g.tickUntil(ctx) })
	err = tunnels.Serve(ctx, g.accept)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot accept members any more: %w", err)
}

// waitIdentity gets the gateway's certificate, waiting for a Consul that is not up yet but not for one that refuses.
func (g *Gateway) waitIdentity(ctx context.Context, store *state.Store) (*state.Identity, error) {
	for {
		identity, err := store.Identity(ctx, tunnel.ServiceGateway)
		if err == nil || ctx.Err() != nil {
			return identity, nil //nolint:nilerr // an ended context is no error
		}
		if !errors.Is(err, state.ErrUnavailable) {
			return nil, fmt.Errorf("cannot get the gateway's certificate: %w", err)
		}
		g.trouble(err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// trouble notes what keeps the gateway from its work, once in the log and for users who ask; nil is the end of it.
func (g *Gateway) trouble(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && g.problem == "" {
		g.logger.Error("waiting for Consul", "error", text)
	}
	if text != g.problem {
		g.problem = text
		g.changed()
	}
}

// campaign seeks the lead again and again: when it is lost, another gateway has it or Consul is away.
func (g *Gateway) campaign(ctx context.Context, store *state.Store, record state.GatewayRecord) {
	for ctx.Err() == nil {
		leadership, err := store.Campaign(ctx, record)
		if err != nil || leadership == nil {
			continue
		}
		own, cancel := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			defer cancel()
			select {
			case <-leadership.Lost():
			case <-own.Done():
			}
		})
		err = g.lead(own, leadership.Fence)
		if err != nil && own.Err() == nil {
			g.logger.Error("cannot lead, leaving it to another gateway", "error", err)
		}
		cancel()
		group.Wait()
		leadership.Resign()
	}
}

// followLeader keeps in mind who leads, for passing requests on.
func (g *Gateway) followLeader(ctx context.Context, store *state.Store) {
	for ctx.Err() == nil {
		leader, err := store.Leader(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil || errors.Is(err, state.ErrNotFound) {
			g.trouble(nil)
		} else {
			g.trouble(err)
		}
		g.mu.Lock()
		if err == nil && leader.HTTPAddr != g.settings.advertiseHTTP {
			g.leader = leader
		} else if !errors.Is(err, state.ErrUnavailable) {
			g.leader = state.GatewayRecord{}
		}
		g.changedLeader()
		g.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// changedLeader wakes requests that wait for a leader. The caller holds mu.
func (g *Gateway) changedLeader() {
	if !g.leading && g.leader.HTTPAddr != "" {
		g.changed()
	}
}

func (g *Gateway) tickUntil(ctx context.Context) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			g.tick()
		}
	}
}

// serveHTTP answers until the context ends, then lets running requests finish for a moment.
func serveHTTP(ctx context.Context, listener net.Listener, config *tls.Config, handler http.Handler, logger hclog.Logger) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends blocking queries and streams
		ErrorLog:    logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	err := server.Serve(listener)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("cannot serve the API any more: %w", err)
}
