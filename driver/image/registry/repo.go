package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/hashicorp/go-hclog"
)

// Repo is one repository at one registry, ready to be asked.
type Repo struct {
	name  name.Repository
	http  *http.Client
	stall time.Duration
	log   hclog.Logger
}

// Manifest is a manifest or an index as the registry holds it, its digest checked.
type Manifest struct {
	MediaType string
	Digest    string
	Body      []byte
}

// Host is the registry's host[:port].
func (r *Repo) Host() string { return r.name.RegistryStr() }

// accepted are the manifest types that a pull can use; schema 1 has no digests worth the name.
func accepted() string {
	return strings.Join([]string{
		string(types.OCIManifestSchema1), string(types.OCIImageIndex),
		string(types.DockerManifestSchema2), string(types.DockerManifestList),
	}, ", ")
}

// Manifest gets what id, a tag or a digest, names.
func (r *Repo) Manifest(ctx context.Context, id string) (*Manifest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.stall, ErrStalled)
	defer cancel()
	resp, err := r.get(ctx, "manifests/"+id, 0, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", cause(ctx, err))
	}
	sum := sha256.Sum256(body)
	m := &Manifest{MediaType: mediaType(resp.Header), Digest: "sha256:" + hex.EncodeToString(sum[:]), Body: body}
	if strings.Contains(id, ":") && m.Digest != id {
		return nil, fmt.Errorf("%w: asked for manifest %s, got %s", ErrCorrupt, id, m.Digest)
	}
	return m, nil
}

// Referrers gets the list of what refers to a digest, in the form of an index. A registry without such lists says
// that it was not found.
func (r *Repo) Referrers(ctx context.Context, digest string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.stall, ErrStalled)
	defer cancel()
	resp, err := r.get(ctx, "referrers/"+digest, 0, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("cannot read the list of referrers: %w", cause(ctx, err))
	}
	return body, nil
}

func mediaType(h http.Header) string {
	mt, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(mt)
}

// get asks for a part of the repository, or for its bytes from one up to another.
func (r *Repo) get(ctx context.Context, what string, from, to int64) (*http.Response, error) {
	u := url.URL{
		Scheme: r.name.Scheme(), Host: r.name.RegistryStr(),
		Path: "/v2/" + r.name.RepositoryStr() + "/" + what,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	if !isBlob(req) {
		req.Header.Set("Accept", accepted())
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, classify(cause(ctx, err))
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		_ = resp.Body.Close() // unread: it may have no end
		return nil, classify(&transport.Error{StatusCode: resp.StatusCode})
	}
	return resp, nil
}
