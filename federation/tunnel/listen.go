package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Listener accepts members' tunnels. Make it with [Listen], then call Serve.
type Listener struct {
	config   Config
	inner    net.Listener
	refusals refusals

	mu    sync.Mutex
	peers map[string]int // sessions by peer
}

// Listen takes the port at once, so that a port in use is told before anything else starts.
func Listen(bind string, cfg Config) (*Listener, error) {
	inner, err := net.Listen("tcp", bind)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for tunnels on %s: %w: choose another address or stop what holds it", bind, err)
	}
	return &Listener{config: cfg.withDefaults(), inner: inner, peers: map[string]int{}}, nil
}

// Addr is the address that the listener holds.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close gives the port back; Serve then returns.
func (l *Listener) Close() error { return l.inner.Close() }

// Serve accepts sessions until the context ends. accept owns the session that it gets: it is called in a goroutine of
// its own with a context that ends with the listener's, and the session is closed when it returns. Serve waits for
// every call to end.
func (l *Listener) Serve(ctx context.Context, accept func(context.Context, *Session)) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.inner.Close() })
	defer stop()
	slots := make(chan struct{}, l.config.Limits.MaxSessions)
	for {
		raw, err := l.inner.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // out of file descriptors, or the peer left already
			l.config.Logger.Warn("cannot accept a tunnel", "error", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			l.config.Logger.Warn("refusing a tunnel: too many are open", "remote", raw.RemoteAddr().String(), "limit", cap(slots))
			_ = raw.Close()
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			l.handle(ctx, raw, accept)
		})
	}
}

func (l *Listener) handle(ctx context.Context, raw net.Conn, accept func(context.Context, *Session)) {
	remote := raw.RemoteAddr().String()
	session, err := l.handshake(ctx, raw)
	if err != nil {
		_ = raw.Close()
		if ctx.Err() == nil && l.refusals.isNew(remote, err) {
			l.config.Logger.Warn("refused a tunnel", "remote", remote, "error", err,
				"next_step", "if this is a member: give its agent a token with the policy of its own alias, on this pool's Consul")
		}
		return
	}
	defer l.leave(session.Peer())
	defer func() { _ = session.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	accept(ctx, session)
}

// handshake verifies the peer and then says so in one byte: with TLS 1.3 a client's handshake ends before the server
// has seen its certificate, and without the byte a refusal would surface at the client only in its first request.
func (l *Listener) handshake(ctx context.Context, raw net.Conn) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.Limits.Handshake)
	defer cancel()
	secure := tls.Server(raw, l.config.tlsConfig(x509.ExtKeyUsageClientAuth))
	err := secure.HandshakeContext(ctx)
	if err != nil {
		return nil, err
	}
	state := secure.ConnectionState()
	peer, err := l.config.verify(state, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	err = l.enter(peer)
	if err != nil {
		return nil, err
	}
	session, err := l.welcome(secure, peer, state.PeerCertificates[0].NotAfter)
	if err != nil {
		l.leave(peer)
	}
	return session, err
}

func (l *Listener) welcome(secure *tls.Conn, peer string, notAfter time.Time) (*Session, error) {
	_ = secure.SetDeadline(time.Now().Add(l.config.Limits.Handshake))
	_, err := secure.Write([]byte{welcome})
	if err != nil {
		return nil, fmt.Errorf("cannot welcome %s: %w", peer, err)
	}
	_ = secure.SetDeadline(time.Time{})
	return newSession(secure, peer, false, notAfter, l.config)
}

// enter counts a peer's session, so that no peer takes the sessions of the others. Each that enters leaves.
func (l *Listener) enter(peer string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[peer] >= l.config.Limits.MaxPerPeer {
		return fmt.Errorf("%w: %s has %d sessions already", ErrPeer, peer, l.peers[peer])
	}
	l.peers[peer]++
	return nil
}

func (l *Listener) leave(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers[peer]--
	if l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}

const welcome = 0x01

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
