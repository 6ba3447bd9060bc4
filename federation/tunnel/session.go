package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/yamux"
)

// Session is one live tunnel. Both sides have the same abilities. It is safe for concurrent use.
type Session struct {
	peer      string
	remote    string
	mux       *yamux.Session
	transport *http.Transport
	limits    Limits
	logger    hclog.Logger
	expiry    *time.Timer
	once      sync.Once
}

// newSession wraps a verified connection. client tells which side of yamux this is; notAfter is when the peer's
// certificate ends, or zero.
func newSession(conn net.Conn, peer string, client bool, notAfter time.Time, cfg Config) (*Session, error) {
	muxConfig := yamux.DefaultConfig()
	muxConfig.AcceptBacklog = cfg.Limits.AcceptBacklog
	muxConfig.KeepAliveInterval = cfg.Limits.KeepAlive
	muxConfig.ConnectionWriteTimeout = cfg.Limits.WriteTimeout
	muxConfig.StreamCloseTimeout = cfg.Limits.HalfClosed
	muxConfig.StreamOpenTimeout = 4 * cfg.Limits.WriteTimeout
	muxConfig.LogOutput = io.Discard
	open := yamux.Server
	if client {
		open = yamux.Client
	}
	mux, err := open(conn, muxConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot start the tunnel's multiplexer: %w", err)
	}
	s := &Session{
		peer: peer, remote: conn.RemoteAddr().String(), mux: mux, limits: cfg.Limits,
		logger: cfg.Logger.With("peer", peer, "remote", conn.RemoteAddr().String()),
	}
	s.transport = &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return s.open()
		},
		DisableCompression: true, // answers are passed on as they are
		MaxIdleConns:       16,
		IdleConnTimeout:    30 * time.Second,
		// A stream of events may be silent for long; the session's pings tell whether the peer lives.
		ResponseHeaderTimeout: 0,
	}
	s.transport.MaxIdleConnsPerHost = 16
	if !notAfter.IsZero() {
		s.expiry = time.AfterFunc(time.Until(notAfter), func() {
			s.logger.Warn("closing a tunnel whose certificate has ended")
			_ = mux.Close() // not s.Close, which looks at the timer that is being made here
		})
	}
	return s, nil
}

// Peer names the other side: a member's alias on a gateway, "pangaea-gateway" on a member.
func (s *Session) Peer() string { return s.peer }

// RemoteAddr is the other end of the TCP connection.
func (s *Session) RemoteAddr() string { return s.remote }

// Transport opens a stream to the peer for every request. The request's scheme must be "http"; its host is free.
func (s *Session) Transport() http.RoundTripper { return s.transport }

// Done is closed when the session has ended, by either side or because the peer fell silent.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Ping measures the round trip to the peer.
func (s *Session) Ping() (time.Duration, error) { return s.mux.Ping() }

// Close ends the session and every stream in it.
func (s *Session) Close() error {
	s.once.Do(func() {
		if s.expiry != nil {
			s.expiry.Stop()
		}
		s.transport.CloseIdleConnections()
	})
	return s.mux.Close()
}

// OpenConn opens a bare stream on which the caller speaks HTTP itself, as websocket dialers do.
func (s *Session) OpenConn() (net.Conn, error) { return s.open() }

func (s *Session) open() (net.Conn, error) {
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("cannot open a stream to %s: %w", s.peer, err)
	}
	return &conn{Stream: stream}, nil
}

// Serve answers the peer's requests with the handler until the context or the session ends, then ends the session.
func (s *Session) Serve(ctx context.Context, handler http.Handler) error {
	server := &http.Server{
		Handler:           http.MaxBytesHandler(handler, s.limits.MaxBodyBytes),
		ReadHeaderTimeout: s.limits.Handshake,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    s.limits.MaxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return withSession(ctx, s) },
		ErrorLog:          s.logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err := server.Serve(newStreamListener(s))
	_ = s.Close()
	_ = server.Close()
	if errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, io.EOF) || errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return err
}

type sessionKey struct{}

func withSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// FromContext returns the session that a request served by [Session.Serve] came in on.
func FromContext(ctx context.Context) (*Session, bool) {
	s, ok := ctx.Value(sessionKey{}).(*Session)
	return s, ok
}
