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
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	identity, err := waitIdentity(ctx, store, logger)
	if err != nil {
		return err
	}
	defer identity.Wait()
	defer cancel()
	tunnels, err := tunnel.Listen(s.tunnel, tunnel.Config{Identity: identity, Peer: tunnel.AcceptMembers, Logger: logger.Named("tunnel")})
	if err != nil {
		return err
	}
	defer tunnels.Close()
	if s.advertiseTunnel == "" {
		s.advertiseTunnel = tunnels.Addr().String()
	}
	g := newGateway(s, store, logger)
	record := state.GatewayRecord{ID: newID(), HTTPAddr: s.advertiseHTTP, TunnelAddr: s.advertiseTunnel, Version: Version}
	transport := &http.Transport{TLSClientConfig: clientConfig, ResponseHeaderTimeout: 0, MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second}
	defer transport.CloseIdleConnections()
	logger.Info("gateway is up", "http", s.advertiseHTTP, "tunnel", s.advertiseTunnel, "consul", store.Address())
	group.Go(func() { _ = store.Register(ctx, record) })
	group.Go(func() { g.campaign(ctx, store, record) })
	group.Go(func() { g.followLeader(ctx, store) })
	group.Go(func() { g.tickUntil(ctx) })
	group.Go(func() {
		err := tunnels.Serve(ctx, g.accept)
		if err != nil && ctx.Err() == nil {
			logger.Error("cannot accept members any more", "error", err)
			cancel()
		}
	})
	return serveHTTP(ctx, listener, serverConfig, g.front(g.routes(), transport), logger)
}

// waitIdentity gets the gateway's certificate, waiting for a Consul that is not up yet but not for one that refuses.
func waitIdentity(ctx context.Context, store *state.Store, logger hclog.Logger) (*state.Identity, error) {
	told := false
	for {
		identity, err := store.Identity(ctx, tunnel.ServiceGateway)
		if err == nil {
			return identity, nil
		}
		if !errors.Is(err, state.ErrUnavailable) || ctx.Err() != nil {
			return nil, fmt.Errorf("cannot get the gateway's certificate: %w", err)
		}
		if !told {
			logger.Error("waiting for Consul", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
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
