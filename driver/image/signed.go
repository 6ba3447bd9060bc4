package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"pangaea/driver/image/registry"
	"pangaea/driver/image/signature"
	"pangaea/driver/image/strict"
)

// A registry may hold any number of signatures of an image, most of them a stranger's: so many are looked at.
const (
	maxSignatures = 64
	maxSigned     = 1 << 20
)

// SignatureRule says which images must be signed, and by whom. Once there are rules, the first one that covers an
// image decides, and an image that none covers is refused.
type SignatureRule struct {
	// Images are globs as in Options.AllowedRegistries. Local images are covered by "**" and by globs of their
	// whole path, "oci:/srv/images/**"; they can't be signed.
	Images []string
	// Keys are the keys of which one must have signed.
	Keys signature.Keys
	// AllowUnsigned lets the images run without.
	AllowUnsigned bool
}

// trust is what an image must bring; its zero value asks for nothing.
type trust struct {
	required bool
	keys     signature.Keys
}

// trusted finds the rule for a reference.
func (r reference) trusted(rules []SignatureRule) (trust, error) {
	if len(rules) == 0 {
		return trust{}, nil
	}
	for _, rule := range rules {
		if slices.ContainsFunc(rule.Images, r.covered) {
			return trust{required: !rule.AllowUnsigned, keys: rule.Keys}, nil
		}
	}
	return trust{}, fmt.Errorf("%w: none of the driver's signature rules covers it", ErrUnsigned)
}

// accepts tells whether one of the signers, all verified, is one that counts now: a key may have been taken out of
// the rules since the image was pulled.
func (t trust) accepts(signers []string) bool {
	return !t.required || slices.ContainsFunc(t.keys, func(k signature.Key) bool { return slices.Contains(signers, k.ID) })
}

// verify finds a valid signature of one of the digests, the one that was asked for first. Of an image for several
// machines, mostly the index is signed.
func (t trust) verify(ctx context.Context, repo *registry.Repo, digests ...string) (string, error) {
	found := 0
	for _, digest := range slices.Compact(digests) {
		for _, look := range []func(context.Context, *registry.Repo, string) (string, int, error){t.byTag, t.byReferrer} {
			id, n, err := look(ctx, repo, digest)
			if err != nil || id != "" {
				return id, err
			}
			found += n
		}
	}
	if found == 0 {
		return "", fmt.Errorf("%w: it carries no signature", ErrUnsigned)
	}
	return "", fmt.Errorf("%w: none of its %d signatures is a valid one by a key of this host's rule for it", ErrUnsigned, found)
}

// byTag looks where cosign 2 keeps signatures: in the layers of an image beside the signed one.
func (t trust) byTag(ctx context.Context, repo *registry.Repo, digest string) (string, int, error) {
	m, err := repo.Manifest(ctx, strings.Replace(digest, ":", "-", 1)+".sig")
	if errors.Is(err, registry.ErrNotFound) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	doc := signatureDoc(m.Body)
	for _, d := range doc.Layers[:min(len(doc.Layers), maxSignatures)] {
		sig := d.Annotations[signature.Annotation]
		if sig == "" || d.MediaType != signature.PayloadType {
			continue
		}
		body, err := readSigned(ctx, repo, d)
		if err != nil {
			return "", 0, err
		}
		id, err := t.keys.Payload(body, sig, digest)
		if err == nil {
			return id, 1, nil
		}
	}
	return "", len(doc.Layers), nil
}

// byReferrer looks where cosign 3 keeps signatures: in bundles that refer to the image.
func (t trust) byReferrer(ctx context.Context, repo *registry.Repo, digest string) (string, int, error) {
	bundles, err := referrers(ctx, repo, digest)
	if err != nil {
		return "", 0, err
	}
	for _, at := range bundles {
		m, err := repo.Manifest(ctx, at.Digest.String())
		if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrCorrupt) {
			continue
		}
		if err != nil {
			return "", 0, err
		}
		doc := signatureDoc(m.Body)
		if len(doc.Layers) != 1 || !isBundle(string(doc.Layers[0].MediaType)) {
			continue
		}
		body, err := readSigned(ctx, repo, doc.Layers[0])
		if err != nil {
			return "", 0, err
		}
		id, err := t.keys.Bundle(body, digest)
		if err == nil {
			return id, 1, nil
		}
	}
	return "", len(bundles), nil
}

// referrers lists the bundles that refer to a digest: by the registry's own list, or by the tag that stands in for it.
func referrers(ctx context.Context, repo *registry.Repo, digest string) ([]v1.Descriptor, error) {
	body, err := repo.Referrers(ctx, digest)
	if errors.Is(err, registry.ErrNotFound) {
		var m *registry.Manifest
		m, err = repo.Manifest(ctx, strings.Replace(digest, ":", "-", 1))
		if err == nil {
			body = m.Body
		}
	}
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []v1.Descriptor
	for _, d := range signatureDoc(body).Manifests {
		if len(out) < maxSignatures && maybeBundle(d.ArtifactType) && validDigest(d.Digest.String()) {
			out = append(out, d)
		}
	}
	return out, nil
}

// maybeBundle takes what a registry says about a referrer's type. Some tell the type of its empty config instead.
func maybeBundle(artifactType string) bool {
	return artifactType == "" || artifactType == "application/vnd.oci.empty.v1+json" || isBundle(artifactType)
}

// signatureDoc parses what should hold or list signatures. One that is no such document holds none.
func signatureDoc(body []byte) document {
	var doc document
	err := strict.Decode(body, &doc)
	if err != nil || doc.kind() == neither {
		return document{}
	}
	return doc
}

func isBundle(mediaType string) bool { return strings.HasPrefix(mediaType, signature.BundleType) }

// readSigned reads what a signature is of; what has no sensible size, or is not what its digest promises, is nothing.
func readSigned(ctx context.Context, repo *registry.Repo, d v1.Descriptor) ([]byte, error) {
	if d.Size > maxSigned {
		return nil, nil
	}
	body, err := readBlob(ctx, fromRepo{repo}, d)
	if errors.Is(err, registry.ErrCorrupt) || errors.Is(err, registry.ErrNotFound) || errors.Is(err, ErrHostile) {
		return nil, nil
	}
	return body, err
}
