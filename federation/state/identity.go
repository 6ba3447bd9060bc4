package state

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/tunnel"
)

// Identity is a certificate from Consul's own authority for one service, kept fresh. It is a [tunnel.Identity].
type Identity struct {
	service    string
	store      *Store
	datacenter string
	group      sync.WaitGroup

	mu          sync.RWMutex
	leaf        *tls.Certificate
	roots       *x509.CertPool
	activeRoot  string
	trustDomain string
}

var _ tunnel.Identity = (*Identity)(nil)

const (
	signTimeout = 10 * time.Second
	// renewRetry is the pause after a failed renewal; a certificate is renewed when half of its life is left.
	renewRetry = 15 * time.Second
)

// Identity gets a certificate for a service ("pangaea-gateway" or "pangaea-member-<alias>") and keeps it and the roots
// fresh until the context ends. The store's token needs service:write on that name and nothing else.
func (s *Store) Identity(ctx context.Context, service string) (*Identity, error) {
	id := &Identity{service: service, store: s}
	var err error
	id.datacenter, err = s.datacenter()
	if err != nil {
		return nil, err
	}
	index, err := id.fetchRoots(ctx, 0)
	if err != nil {
		return nil, err
	}
	err = id.renew(ctx)
	if errors.Is(err, ErrPermission) {
		return nil, fmt.Errorf("%w: the token lacks service:write on %q: see that consul.token_file holds the token made for it", err, service)
	}
	if err != nil {
		return nil, err
	}
	rotated := make(chan struct{}, 1)
	id.group.Go(func() { id.followRoots(ctx, index, rotated) })
	id.group.Go(func() { id.keepFresh(ctx, rotated) })
	return id, nil
}

// datacenter asks for the name of Consul's own datacenter, which certificates carry. The pool's Consul is one by
// itself; of several, the nearest comes first.
func (s *Store) datacenter() (string, error) {
	names, err := s.client.Catalog().Datacenters()
	if err != nil {
		return "", s.translate("ask for the datacenter", err)
	}
	if len(names) == 0 {
		return "", fmt.Errorf("cannot ask for the datacenter: %w's servers: there is none", ErrUnavailable)
	}
	return names[0], nil
}

// Wait returns when the goroutines that keep the identity fresh have ended, after its context has.
func (id *Identity) Wait() { id.group.Wait() }

// Service implements tunnel.Identity.
func (id *Identity) Service() string { return id.service }

// Certificate implements tunnel.Identity.
func (id *Identity) Certificate() (*tls.Certificate, error) {
	id.mu.RLock()
	defer id.mu.RUnlock()
	return id.leaf, nil
}

// Roots implements tunnel.Identity.
func (id *Identity) Roots() (*x509.CertPool, error) {
	id.mu.RLock()
	defer id.mu.RUnlock()
	return id.roots, nil
}

// renew replaces the certificate.
func (id *Identity) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	id.mu.RLock()
	trustDomain := id.trustDomain
	id.mu.RUnlock()
	leaf, err := id.store.signer.sign(ctx, trustDomain, id.datacenter, id.service)
	if err != nil {
		return fmt.Errorf("cannot get a certificate for %s: %w", id.service, err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.leaf = leaf
	return nil
}

// keepFresh renews the certificate in the middle of its life, and soon when the authority has changed.
func (id *Identity) keepFresh(ctx context.Context, rotated <-chan struct{}) {
	for {
		leaf, _ := id.Certificate()
		half := time.Until(leaf.Leaf.NotBefore.Add(leaf.Leaf.NotAfter.Sub(leaf.Leaf.NotBefore) / 2))
		timer := time.NewTimer(max(half, renewRetry))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-rotated:
			timer.Stop()
			// Consul signs 50 a second, and the whole pool comes now.
			pause(ctx, rand.N(2*time.Second)) //nolint:gosec // a pause need not be secret
		case <-timer.C:
		}
		for ctx.Err() == nil {
			err := id.renew(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			id.store.logger.Warn("cannot renew the certificate, trying again", "service", id.service, "error", err)
			pause(ctx, renewRetry)
		}
	}
}

// followRoots waits for changes of the authority.
func (id *Identity) followRoots(ctx context.Context, index uint64, rotated chan<- struct{}) {
	for {
		before := id.root()
		next, err := id.fetchRoots(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			id.store.logger.Warn("cannot follow Consul's authorities, trying again", "error", err)
			pause(ctx, 5*time.Second)
			continue
		}
		if id.root() != before {
			select {
			case rotated <- struct{}{}:
			default: // a renewal is due already
			}
		}
		if next < index {
			next = 0 // Consul was restored from a snapshot
		}
		index = next
	}
}

func (id *Identity) root() string {
	id.mu.RLock()
	defer id.mu.RUnlock()
	return id.activeRoot
}

func (id *Identity) fetchRoots(ctx context.Context, index uint64) (uint64, error) {
	options := (&api.QueryOptions{WaitIndex: index}).WithContext(ctx)
	list, meta, err := id.store.client.Agent().ConnectCARoots(options)
	if err != nil {
		return 0, id.store.translate("get the authorities of Consul", err)
	}
	roots := x509.NewCertPool()
	for _, root := range list.Roots {
		roots.AppendCertsFromPEM([]byte(root.RootCertPEM))
	}
	if roots.Equal(x509.NewCertPool()) || list.TrustDomain == "" {
		return 0, errors.New("cannot use Consul's authorities: there is none: set connect { enabled = true } on its servers")
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.roots, id.activeRoot, id.trustDomain = roots, list.ActiveRootID, list.TrustDomain
	return meta.LastIndex, nil
}
