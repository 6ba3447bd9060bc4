package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Identity is where one side's certificates come from. It is asked anew for every connection, so that certificates
// and roots rotate without a restart.
type Identity interface {
	// Service is the name that this side's certificate carries, such as "pangaea-gateway".
	Service() string
	// Certificate returns the current leaf certificate with its key.
	Certificate() (*tls.Certificate, error)
	// Roots returns the authorities that a peer's certificate must chain to.
	Roots() (*x509.CertPool, error)
}

// PeerFunc decides by the service name in a verified certificate whether a peer may open a session, and names it.
type PeerFunc func(service string) (name string, err error)

// Config holds what both sides need. The zero value of everything but Identity and Peer is usable.
type Config struct {
	Identity Identity
	Peer     PeerFunc // AcceptMembers on a gateway, AcceptGateway on a member
	Limits   Limits
	Logger   hclog.Logger
}

// Limits bounds what a peer can cost and how long it may be silent. Zero fields take defaults.
type Limits struct {
	KeepAlive      time.Duration // pause between pings, default 2 s
	WriteTimeout   time.Duration // longest wait for a ping's answer or a write, default 3 s
	Handshake      time.Duration // longest TLS handshake, default 10 s
	HalfClosed     time.Duration // longest life of a stream after this side closed it, default 30 min
	MaxStreams     int           // streams that the peer may have open, default 4,096
	AcceptBacklog  int           // streams that wait to be accepted, default 256
	MaxSessions    int           // sessions that a listener holds, default 4,096
	MaxPerPeer     int           // of these with one peer, default 4: a new one beside those that it does not know to be dead
	MaxHeaderBytes int           // of one HTTP request, default 64 KiB
	MaxBodyBytes   int64         // of one HTTP request, default 16 MiB
}

func (l Limits) withDefaults() Limits {
	orDuration(&l.KeepAlive, 2*time.Second)
	orDuration(&l.WriteTimeout, 3*time.Second)
	orDuration(&l.Handshake, 10*time.Second)
	orDuration(&l.HalfClosed, 30*time.Minute)
	orInt(&l.MaxStreams, 4096)
	orInt(&l.AcceptBacklog, 256)
	orInt(&l.MaxSessions, 4096)
	orInt(&l.MaxPerPeer, 4)
	orInt(&l.MaxHeaderBytes, 64<<10)
	if l.MaxBodyBytes <= 0 {
		l.MaxBodyBytes = 16 << 20
	}
	return l
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

func orInt(n *int, def int) {
	if *n <= 0 {
		*n = def
	}
}

func (c Config) withDefaults() Config {
	c.Limits = c.Limits.withDefaults()
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return c
}
