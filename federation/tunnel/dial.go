package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Dial opens one tunnel to a gateway at host:port.
func Dial(ctx context.Context, address string, cfg Config) (*Session, error) {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, cfg.Limits.Handshake)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach gateway %s: %w: check that it runs and that this host may dial it", address, err)
	}
	session, err := dialTLS(ctx, raw, address, cfg)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return session, nil
}

func dialTLS(ctx context.Context, raw net.Conn, address string, cfg Config) (*Session, error) {
	secure := tls.Client(raw, cfg.tlsConfig(x509.ExtKeyUsageServerAuth))
	err := secure.HandshakeContext(ctx)
	if errors.Is(err, ErrPeer) {
		return nil, fmt.Errorf("cannot trust gateway %s: %w: check that gateways lists this pool's gateway and that consul.address is this pool's Consul", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot agree on TLS with gateway %s: %w", address, err)
	}
	deadline, _ := ctx.Deadline()
	_ = secure.SetDeadline(deadline)
	greeting := make([]byte, 1)
	_, err = io.ReadFull(secure, greeting)
	if err != nil {
		return nil, fmt.Errorf("gateway %s refused this side's certificate for %q: %w: check the alias and that the token is from this pool's Consul", address, cfg.Identity.Service(), err)
	}
	if greeting[0] != welcome {
		return nil, fmt.Errorf("gateway %s speaks another version of the tunnel: run the same release on both sides", address)
	}
	_ = secure.SetDeadline(time.Time{})
	state := secure.ConnectionState()
	peer, err := cfg.verify(state, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	return newSession(secure, peer, true, state.PeerCertificates[0].NotAfter, cfg)
}

// Backoff bounds the pauses of [Run].
type Backoff struct {
	Min time.Duration // after the first failure, default 250 ms
	Max time.Duration // default 10 s
}

// Run keeps one tunnel to a gateway open until the context ends: it dials, hands the session to use, which owns it
// until it returns, and dials again after a pause that grows while dialling fails or sessions are short. The same
// failure is logged once.
func Run(ctx context.Context, address string, cfg Config, backoff Backoff, use func(context.Context, *Session)) {
	cfg = cfg.withDefaults()
	orDuration(&backoff.Min, 250*time.Millisecond)
	orDuration(&backoff.Max, 10*time.Second)
	wait, told := backoff.Min, ""
	for ctx.Err() == nil {
		session, err := Dial(ctx, address, cfg)
		short := err != nil
		if err == nil {
			told = ""
			opened := time.Now()
			cfg.Logger.Info("tunnel is open", "gateway", address)
			stop := context.AfterFunc(ctx, func() { _ = session.Close() })
			use(ctx, session)
			stop()
			_ = session.Close()
			short = time.Since(opened) < backoff.Max
			cfg.Logger.Info("tunnel has ended", "gateway", address)
		} else if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			cfg.Logger.Warn("no tunnel, trying again", "gateway", address, "error", err)
		}
		// Jitter keeps a thousand members from coming back to a restarted gateway in one instant.
		pause(ctx, wait/2+rand.N(wait)) //nolint:gosec // a pause need not be secret
		wait = min(2*wait, backoff.Max)
		if !short {
			wait = backoff.Min
		}
	}
}
