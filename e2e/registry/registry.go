// Package registry is an OCI registry for one machine, and the images of this repository's own programs in it.
//
// It serves go-containerregistry's registry on an address that the caller names, keeps blobs in memory, and is for
// tests, the demo and benchmarks only: it has no access control.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a running registry. Close it when done.
type Registry struct {
	server   *http.Server
	listener net.Listener
	done     chan struct{}
}

// Start serves a new, empty registry on address ("127.0.0.1:0" picks a port).
func Start(address string) (*Registry, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot start the registry: %w", err)
	}
	r := &Registry{
		server: &http.Server{
			Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			ReadHeaderTimeout: 10 * time.Second,
		},
		listener: listener,
		done:     make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(listener)
	}()
	return r, nil
}

// Address is the host and port that images are pulled from.
func (r *Registry) Address() string { return r.listener.Addr().String() }

// Push stores an image under "name:tag" and returns its digest.
func (r *Registry) Push(ctx context.Context, nameAndTag string, image v1.Image) (string, error) {
	ref, err := name.ParseReference(r.Address()+"/"+nameAndTag, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("cannot name the image: %w", err)
	}
	err = remote.Write(ref, image, remote.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("cannot push %s: %w", ref, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("cannot take the digest of %s: %w", ref, err)
	}
	return digest.String(), nil
}

// Close stops the registry and waits until it has.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
