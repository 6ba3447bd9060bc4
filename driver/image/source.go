package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"pangaea/driver/image/archive"
	"pangaea/driver/image/layer"
	"pangaea/driver/image/registry"
	"pangaea/driver/image/strict"
)

const (
	maxNesting = 4
	maxConfig  = 4 << 20
)

// plan is an image before its layers are here: what to fetch and what it must turn out to be.
type plan struct {
	ref    string
	digest string
	config *v1.ConfigFile
	layers []layerPlan // bottom first
	signer string      // the key that signed it, if it has to be signed
	place  string      // where it is: a registry's host, or a path on this one
	close  func()
}

// sign adds the plan's signer to those of the image.
func (p *plan) sign(signers []string) []string {
	if p.signer == "" || slices.Contains(signers, p.signer) {
		return signers
	}
	return append(signers, p.signer)
}

type layerPlan struct {
	want layer.Want
	open func(context.Context) (io.ReadCloser, error)
	// from opens it at a place further on; nil where it lies on this disk anyway.
	from func(context.Context, int64) (io.ReadCloser, error)
}

// content is a place that holds manifests and blobs by digest.
type content interface {
	Manifest(ctx context.Context, digest string) ([]byte, error)
	Blob(ctx context.Context, digest string, size int64) (io.ReadCloser, error)
}

// fromRepo makes a registry's repository a content.
type fromRepo struct{ *registry.Repo }

func (f fromRepo) Manifest(ctx context.Context, digest string) ([]byte, error) {
	m, err := f.Repo.Manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	return m.Body, nil
}

// openPlan finds the image that ref means now, and makes sure that it is signed if it has to be.
func (s *Store) openPlan(ctx context.Context, r reference, req PullRequest, t trust) (*plan, error) {
	if r.remote == nil {
		if t.required {
			return nil, fmt.Errorf("%w: an image on the disk carries no signature", ErrUnsigned)
		}
		p, err := s.openLocal(ctx, r, req.Dir)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLocal, err)
		}
		p.place = r.flightKey(req)
		return p, nil
	}
	creds := registry.Credentials{Username: req.Username, Password: req.Password, SoftFail: req.SoftFail}
	repo, m, err := s.client.Open(ctx, r.remote, creds)
	if err != nil {
		return nil, err
	}
	p, err := resolve(ctx, fromRepo{repo}, m.Digest, m.Body, 0)
	if err != nil {
		return nil, err
	}
	p.place = repo.Host()
	if !t.required {
		return p, nil
	}
	p.signer, err = t.verify(ctx, repo, m.Digest, p.digest)
	return p, err
}

func (s *Store) openLocal(ctx context.Context, r reference, dir string) (*plan, error) {
	root, file, err := s.localRoot(r, dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	if r.scheme == schemeDocker {
		d, err := archive.OpenDocker(root, file, r.tag)
		if err != nil {
			return nil, err
		}
		return closing(fromDocker(d))(d)
	}
	open := archive.OpenLayoutTar
	if r.scheme == schemeLayout {
		open = archive.OpenLayout
	}
	l, err := open(root, file)
	if err != nil {
		return nil, err
	}
	return closing(fromLayout(ctx, l, r.tag))(l)
}

// closing ties the files that a plan reads from to the plan's end, or closes them with its failure.
func closing(p *plan, err error) func(io.Closer) (*plan, error) {
	return func(c io.Closer) (*plan, error) {
		if err != nil {
			_ = c.Close()
			return nil, err
		}
		p.close = func() { _ = c.Close() }
		return p, nil
	}
}

func fromLayout(ctx context.Context, l *archive.Layout, tag string) (*plan, error) {
	top, err := l.Top(tag)
	if err != nil {
		return nil, err
	}
	body, err := l.Manifest(ctx, top.Digest.String())
	if err != nil {
		return nil, err
	}
	return resolve(ctx, l, top.Digest.String(), body, 0)
}

func fromDocker(d *archive.Docker) (*plan, error) {
	body, err := d.Config()
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(body)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != d.Layers() {
		return nil, fmt.Errorf("%w: %d layers, %d diff IDs", archive.ErrInvalid, d.Layers(), len(config.RootFS.DiffIDs))
	}
	sum := sha256.Sum256(body)
	p := &plan{digest: "sha256:" + hex.EncodeToString(sum[:]), config: config}
	for i, id := range config.RootFS.DiffIDs {
		p.layers = append(p.layers, layerPlan{
			want: layer.Want{Size: -1, DiffID: id.String()},
			open: func(context.Context) (io.ReadCloser, error) { return d.Layer(i) },
		})
	}
	return p, nil
}

// document is what a manifest and an index have in common; the media type inside decides, since the one
// outside is not covered by the digest.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

type kind string

const (
	aManifest kind = "manifest"
	anIndex   kind = "index"
	neither   kind = ""
)

// kind refuses what is a manifest to one reader and an index to another (CVE-2021-41190).
func (d document) kind() kind {
	manifest := d.Config != nil && d.Manifests == nil
	index := d.Config == nil && d.Layers == nil
	switch {
	case d.SchemaVersion != 2:
		return neither
	case manifest && (d.MediaType == "" || d.MediaType.IsImage()):
		return aManifest
	case index && (d.MediaType.IsIndex() || d.MediaType == "" && d.Manifests != nil):
		return anIndex
	}
	return neither
}

// resolve follows indexes to the manifest for this machine. body has been checked against digest.
func resolve(ctx context.Context, c content, digest string, body []byte, depth int) (*plan, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%w: its indexes nest more than %d deep", ErrHostile, maxNesting)
	}
	var doc document
	err := strict.Decode(body, &doc)
	if err != nil {
		return nil, fmt.Errorf("%w: its manifest is no valid JSON: %w", ErrHostile, err)
	}
	switch doc.kind() {
	case aManifest:
		return fromManifest(ctx, c, digest, doc)
	case anIndex:
	default:
		return nil, fmt.Errorf("%w: its manifest of type %.80q is neither an image nor an index", ErrHostile, doc.MediaType)
	}
	child, err := choose(doc.Manifests)
	if err != nil {
		return nil, err
	}
	body, err = c.Manifest(ctx, child.Digest.String())
	if err != nil {
		return nil, err
	}
	if int64(len(body)) != child.Size {
		return nil, fmt.Errorf("%w: manifest %s has %d bytes where the index promises %d", registry.ErrCorrupt, child.Digest, len(body), child.Size)
	}
	return resolve(ctx, c, child.Digest.String(), body, depth+1)
}

// choose picks this machine's entry of an index; attestations and the like name no platform that exists.
func choose(list []v1.Descriptor) (v1.Descriptor, error) {
	var offered []string
	for _, d := range list {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() || !validDigest(d.Digest.String()) {
			continue
		}
		if d.Platform == nil {
			if len(list) == 1 || d.MediaType.IsIndex() {
				return d, nil // the config has the last word
			}
			continue
		}
		if d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH {
			return d, nil
		}
		offered = append(offered, d.Platform.String())
	}
	return v1.Descriptor{}, fmt.Errorf("%w: it has %.300q, this machine is linux/%s", ErrPlatform, offered, runtime.GOARCH)
}

func fromManifest(ctx context.Context, c content, digest string, doc document) (*plan, error) {
	body, err := readBlob(ctx, c, *doc.Config)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(body)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != len(doc.Layers) {
		return nil, fmt.Errorf("%w: its manifest has %d layers, its config %d", ErrHostile, len(doc.Layers), len(config.RootFS.DiffIDs))
	}
	p := &plan{digest: digest, config: config}
	for i, d := range doc.Layers {
		if !d.MediaType.IsLayer() || !d.MediaType.IsDistributable() {
			return nil, fmt.Errorf("%w: layer %d is of type %.80q", ErrHostile, i, d.MediaType)
		}
		if d.Size < 0 || !validDigest(d.Digest.String()) {
			return nil, fmt.Errorf("%w: layer %d has no valid digest and size", ErrHostile, i)
		}
		l := layerPlan{
			want: layer.Want{Digest: d.Digest.String(), Size: d.Size, DiffID: config.RootFS.DiffIDs[i].String()},
			// The descriptor's own urls are never followed: they would lead wherever the image's author likes.
			open: func(ctx context.Context) (io.ReadCloser, error) { return c.Blob(ctx, d.Digest.String(), d.Size) },
		}
		if repo, ok := c.(fromRepo); ok {
			l.from = func(ctx context.Context, at int64) (io.ReadCloser, error) {
				return repo.BlobFrom(ctx, d.Digest.String(), d.Size, at)
			}
		}
		p.layers = append(p.layers, l)
	}
	return p, nil
}

// readBlob reads a small blob whole and checks it.
func readBlob(ctx context.Context, c content, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxConfig || !validDigest(d.Digest.String()) {
		return nil, fmt.Errorf("%w: its config has no valid digest and size", ErrHostile)
	}
	r, err := c.Blob(ctx, d.Digest.String(), d.Size)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	body, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	if int64(len(body)) != d.Size || "sha256:"+hex.EncodeToString(sum[:]) != d.Digest.String() {
		return nil, fmt.Errorf("%w: config %s", registry.ErrCorrupt, d.Digest)
	}
	return body, nil
}
