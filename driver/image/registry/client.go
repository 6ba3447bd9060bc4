package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Options say whom the client may talk to and how long it waits. Every field's zero value is safe.
type Options struct {
	Logger   hclog.Logger
	Insecure []string            // host[:port] that may be spoken to over plain HTTP
	Mirrors  map[string][]string // registry to host[:port][/prefix], asked in order before the registry itself
	Named    []string            // host[:port] that may be at a private address, like those in Insecure and Mirrors
	AuthFile string              // a Docker config.json
	Stall    time.Duration       // how long an answer may bring nothing
}

// Client makes connections to registries; it is safe for concurrent use.
type Client struct {
	opts  Options
	named names
	// Strangers' registries and those that the operator named share no connection: a redirect of the first kind
	// must not lead to what only the second may reach.
	strange, trusted *network
}

// New makes a client; it talks to nobody yet.
func New(opts Options) *Client {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.Stall <= 0 {
		opts.Stall = time.Minute
	}
	opts.Insecure, opts.Named = canonicals(opts.Insecure), canonicals(opts.Named)
	mirrored := map[string][]string{}
	for _, registry := range slices.Sorted(maps.Keys(opts.Mirrors)) {
		known := Canonical(registry)
		mirrored[known] = append(mirrored[known], opts.Mirrors[registry]...)
	}
	opts.Mirrors = mirrored
	c := &Client{opts: opts, named: names{}}
	c.named.add(opts.Insecure...)
	c.named.add(opts.Named...)
	for registry, mirrors := range opts.Mirrors {
		c.named.add(registry)
		for _, m := range mirrors {
			host, _ := splitMirror(m)
			c.named.add(host)
		}
	}
	c.strange = newNetwork(names{}, opts.Stall, http.ProxyFromEnvironment)
	c.trusted = newNetwork(c.named, opts.Stall, http.ProxyFromEnvironment)
	return c
}

// Canonical is what a registry is called in a parsed reference: Docker's calls itself by another name than people do.
func Canonical(registry string) string {
	if registry == "docker.io" {
		return name.DefaultRegistry
	}
	return registry
}

func canonicals(registries []string) []string {
	var list []string
	for _, r := range registries {
		list = append(list, Canonical(r))
	}
	return list
}

// Close drops idle connections.
func (c *Client) Close() {
	c.strange.close()
	c.trusted.close()
}

// network gives what a registry is to be reached by.
func (c *Client) network(registry string) *network {
	if c.named.has(registry) {
		return c.trusted
	}
	return c.strange
}

// Parse reads an image's reference; it knows which registries speak plain HTTP.
func (c *Client) Parse(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if !c.insecure(r.Context().RegistryStr()) {
		return r, nil
	}
	return name.ParseReference(ref, name.Insecure)
}

func (c *Client) insecure(host string) bool { return slices.Contains(c.opts.Insecure, host) }

// Open finds the image's manifest at the first mirror that has it, else at its registry, and returns the
// repository there together with the manifest.
func (c *Client) Open(ctx context.Context, ref name.Reference, creds Credentials) (*Repo, *Manifest, error) {
	for _, mirror := range c.opts.Mirrors[ref.Context().RegistryStr()] {
		repo, m, err := c.openMirror(ctx, mirror, ref)
		if err == nil {
			return repo, m, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		c.opts.Logger.Debug("cannot use mirror", "mirror", mirror, "image", ref.Name(), "error", err)
	}
	return c.openAt(ctx, ref.Context(), ref.Identifier(), creds, true)
}

func (c *Client) openMirror(ctx context.Context, mirror string, ref name.Reference) (*Repo, *Manifest, error) {
	host, prefix := splitMirror(mirror)
	path := ref.Context().RepositoryStr()
	if prefix != "" {
		path = prefix + "/" + path
	}
	var opts []name.Option
	if c.insecure(host) {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(host+"/"+path, opts...)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot parse mirror: %w", err)
	}
	return c.openAt(ctx, repo, ref.Identifier(), Credentials{}, false)
}

func (c *Client) openAt(ctx context.Context, repo name.Repository, id string, creds Credentials, own bool) (*Repo, *Manifest, error) {
	auth, err := c.authenticator(ctx, repo.Registry, creds, own)
	if err != nil {
		return nil, nil, err
	}
	inner := transport.NewRetry(&policy{base: c.network(repo.RegistryStr()), insecure: c.opts.Insecure}, transport.WithRetryPredicate(worthRetry))
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, inner, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, nil, classify(cause(ctx, err))
	}
	r := &Repo{name: repo, http: &http.Client{Transport: rt}, stall: c.opts.Stall, log: c.opts.Logger}
	m, err := r.Manifest(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	return r, m, nil
}

// worthRetry picks the broken connections that a second request at once may get past. Whatever takes longer
// to pass is for the caller: a ping over TLS to a registry that speaks plain HTTP must fail fast, too.
func worthRetry(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
