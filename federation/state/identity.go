package state

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/tunnel"
)

// Identity is a certificate from Consul's own authority for one service, kept fresh. It is a [tunnel.Identity].
type Identity struct {
	service string
	store   *Store
	mu      sync.RWMutex
	leaf    *tls.Certificate
	roots   *x509.CertPool
	group   sync.WaitGroup
}

var _ tunnel.Identity = (*Identity)(nil)

// Identity fetches the certificate of a service ("pangaea-gateway" or "pangaea-member-<alias>") and keeps it and the
// roots fresh until the context ends. The store's token needs service:write on that name and nothing else.
func (s *Store) Identity(ctx context.Context, service string) (*Identity, error) {
	id := &Identity{service: service, store: s}
	rootsIndex, err := id.fetchRoots(ctx, 0)
	if err != nil {
		return nil, err
	}
	leafIndex, err := id.fetchLeaf(ctx, 0)
	if errors.Is(err, ErrPermission) {
		return nil, fmt.Errorf("%w: the token lacks service:write on %q: see that consul.token_file holds the token made for it", err, service)
	}
	if err != nil {
		return nil, err
	}
	id.group.Go(func() { id.follow(ctx, rootsIndex, id.fetchRoots) })
	id.group.Go(func() { id.follow(ctx, leafIndex, id.fetchLeaf) })
	return id, nil
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

// follow repeats a blocking fetch: Consul answers when it has a new certificate, well before the old one ends.
func (id *Identity) follow(ctx context.Context, index uint64, fetch func(context.Context, uint64) (uint64, error)) {
	for {
		next, err := fetch(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			id.store.logger.Warn("cannot refresh the certificate, trying again", "service", id.service, "error", err)
			pause(ctx, 5*time.Second)
			continue
		}
		if next < index {
			next = 0
		}
		index = next
	}
}

func (id *Identity) fetchLeaf(ctx context.Context, index uint64) (uint64, error) {
	leaf, meta, err := id.store.client.Agent().ConnectCALeaf(id.service, blocking(ctx, index))
	if err != nil {
		return 0, id.store.translate("get a certificate for "+id.service, err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		return 0, fmt.Errorf("cannot use the certificate that Consul gave for %s: %w", id.service, err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.leaf = &pair
	return meta.LastIndex, nil
}

func (id *Identity) fetchRoots(ctx context.Context, index uint64) (uint64, error) {
	list, meta, err := id.store.client.Agent().ConnectCARoots(blocking(ctx, index))
	if err != nil {
		return 0, id.store.translate("get the authorities of Consul", err)
	}
	roots := x509.NewCertPool()
	for _, root := range list.Roots {
		roots.AppendCertsFromPEM([]byte(root.RootCertPEM))
	}
	if roots.Equal(x509.NewCertPool()) {
		return 0, errors.New("cannot use Consul's authorities: there is none: set connect { enabled = true } on its servers")
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.roots = roots
	return meta.LastIndex, nil
}

func blocking(ctx context.Context, index uint64) *api.QueryOptions {
	return (&api.QueryOptions{WaitIndex: index}).WithContext(ctx)
}
