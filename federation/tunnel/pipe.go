package tunnel

import (
	"fmt"
	"net"
	"time"
)

// Pipe returns two joined sessions without a network or certificates, for tests of what speaks over a tunnel. The
// first is the gateway's, whose peer is the member; the second is the member's.
func Pipe(alias string, cfg Config) (gateway, member *Session, err error) {
	cfg = cfg.withDefaults()
	left, right := net.Pipe()
	gateway, err = newSession(left, alias, false, time.Time{}, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the gateway's side: %w", err)
	}
	member, err = newSession(right, ServiceGateway, true, time.Time{}, cfg)
	if err != nil {
		_ = gateway.Close()
		return nil, nil, fmt.Errorf("cannot make the member's side: %w", err)
	}
	return gateway, member, nil
}
