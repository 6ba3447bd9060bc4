package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/shoenig/test/must"

	"pangaea/driver/image/signature"
)

// signer is a key pair as cosign has it.
type signer struct {
	key  *ecdsa.PrivateKey
	keys signature.Keys
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must.NoError(t, err)
	path := filepath.Join(t.TempDir(), "cosign.pub")
	must.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	keys, err := signature.Load(path)
	must.NoError(t, err)
	return &signer{key, keys}
}

func (s *signer) sign(t *testing.T, message string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(message))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	must.NoError(t, err)
	return base64.StdEncoding.EncodeToString(sig)
}

// byTag signs as cosign 2 does.
func (s *signer) byTag(t *testing.T, h *host, digest string) {
	t.Helper()
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer: static.NewLayer([]byte(payload), signature.PayloadType), Annotations: map[string]string{signature.Annotation: s.sign(t, payload)},
	})
	must.NoError(t, err)
	h.push(t, "app:"+strings.Replace(digest, ":", "-", 1)+".sig", mutate.MediaType(img, types.OCIManifestSchema1))
}

// byReferrer signs as cosign 3 does.
func (s *signer) byReferrer(t *testing.T, h *host, subject v1.Descriptor) {
	t.Helper()
	const kind = "application/vnd.in-toto+json"
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, subject.Digest.Hex)
	bundle := fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)), kind, s.sign(t, fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement)))
	const bundleType = signature.BundleType + ".v0.3+json"
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(bundle), bundleType))
	must.NoError(t, err)
	img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), bundleType)
	made, ok := mutate.Subject(img, subject).(v1.Image)
	must.True(t, ok)
	digest, err := made.Digest()
	must.NoError(t, err)
	ref, err := name.ParseReference(h.addr+"/app@"+digest.String(), name.Insecure)
	must.NoError(t, err)
	must.NoError(t, remote.Write(ref, made))
}

func descriptor(t *testing.T, img v1.Image) v1.Descriptor {
	t.Helper()
	digest, err := img.Digest()
	must.NoError(t, err)
	size, err := img.Size()
	must.NoError(t, err)
	return v1.Descriptor{MediaType: types.DockerManifestSchema2, Digest: digest, Size: size}
}

// rule demands a signature by one of keys for images.
func rule(keys signature.Keys, images ...string) []SignatureRule {
	return []SignatureRule{{Images: images, Keys: keys}}
}

func TestRootPullWantsSignatures(t *testing.T) {
	t.Parallel()
	a, b := newSigner(t), newSigner(t)
	img := simple(t)
	d := descriptor(t, img)
	other := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	noList := fail("/referrers/", status(http.StatusNotFound))
	for _, tc := range []struct {
		name  string
		wrap  func(http.Handler) http.Handler
		sign  func(t *testing.T, h *host)
		rules []SignatureRule
		words string
	}{
		{"unsigned", nil, nil, rule(a.keys, "**"), "carries no signature; sign it with a key"},
		{"by tag", nil, func(t *testing.T, h *host) { a.byTag(t, h, d.Digest.String()) }, rule(a.keys, "**"), ""},
		{"by referrer", nil, func(t *testing.T, h *host) { a.byReferrer(t, h, d) }, rule(a.keys, "**"), ""},
		{"by a referrer's tag", noList, func(t *testing.T, h *host) { a.byReferrer(t, h, d) }, rule(a.keys, "**"), ""},
		{"one of two keys", nil, func(t *testing.T, h *host) { b.byTag(t, h, d.Digest.String()) }, rule(append(a.keys[:1:1], b.keys...), "**"), ""},
		{"wrong key", nil, func(t *testing.T, h *host) { b.byTag(t, h, d.Digest.String()) }, rule(a.keys, "**"), "none of its 1 signatures"},
		{"wrong key in a bundle", nil, func(t *testing.T, h *host) { b.byReferrer(t, h, d) }, rule(a.keys, "**"), "none of its 1 signatures"},
		{"both formats, one right", nil, func(t *testing.T, h *host) {
			b.byTag(t, h, d.Digest.String())
			a.byReferrer(t, h, d)
		}, rule(a.keys, "**"), ""},
		{"another image's signature under the tag", nil, func(t *testing.T, h *host) {
			a.byTag(t, h, other.String())
			copyTag(t, h, other, d.Digest)
		}, rule(a.keys, "**"), "none of its 1 signatures"},
		{"junk under the tag", nil, func(t *testing.T, h *host) {
			h.push(t, "app:sha256-"+d.Digest.Hex+".sig", img)
		}, rule(a.keys, "**"), "none of its 2 signatures"},
		{"other repository's rule", nil, nil, rule(a.keys, "registry.example/**"), "none of the driver's signature rules covers it"},
		{"allowed without", nil, nil, []SignatureRule{{Images: []string{"*"}, AllowUnsigned: true}, {Images: []string{"**"}, Keys: a.keys}}, ""},
		{"faulty registry", fail(".sig", status(http.StatusBadGateway)), nil, rule(a.keys, "**"), "HTTP 502"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, tc.wrap)
			ref := h.push(t, "app:v1", img)
			if tc.sign != nil {
				tc.sign(t, h)
			}
			s := open(t, Options{}, h)
			got, err := s.Pull(within(t), PullRequest{Ref: ref, Signatures: tc.rules})
			if tc.words == "" {
				must.NoError(t, err)
				must.Eq(t, d.Digest.String(), got.Digest)
				return
			}
			must.ErrorContains(t, err, tc.words)
			must.Eq(t, strings.Contains(tc.words, "HTTP"), IsRecoverable(err), must.Sprint(err))
			assertNothingHalfMade(t, s)
			layers, err := os.ReadDir(s.path("layers"))
			must.NoError(t, err)
			must.Eq(t, 1, len(layers)) // nothing was fetched but the "empty" one's place
		})
	}
}

// copyTag gives one digest's signatures out as another's.
func copyTag(t *testing.T, h *host, from, to v1.Hash) {
	t.Helper()
	ref, err := name.ParseReference(h.addr+"/app:sha256-"+from.Hex+".sig", name.Insecure)
	must.NoError(t, err)
	img, err := remote.Image(ref)
	must.NoError(t, err)
	h.push(t, "app:sha256-"+to.Hex+".sig", img)
}

// TestRootSignaturesOfCachedImages changes the rules while the image stays.
func TestRootSignaturesOfCachedImages(t *testing.T) {
	t.Parallel()
	a, b := newSigner(t), newSigner(t)
	c := &counter{word: "/v2/"}
	h := serve(t, c.wrap)
	ref := h.push(t, "app:v1", simple(t))
	digest := descriptor(t, simple(t)).Digest.String()
	dir := t.TempDir()
	pull := func(rules []SignatureRule, policy Policy) error {
		t.Helper()
		s := openAt(t, dir, Options{}, h)
		_, err := s.Pull(within(t), PullRequest{Ref: ref, Policy: policy, Signatures: rules})
		return err
	}
	must.NoError(t, pull(nil, ""))
	must.ErrorIs(t, pull(rule(a.keys, "**"), ""), ErrUnsigned) // although it is there
	must.ErrorIs(t, pull(rule(a.keys, "**"), PolicyNever), ErrUnsigned)
	a.byTag(t, h, digest)
	must.NoError(t, pull(rule(a.keys, "**"), ""))
	c.n.Store(0)
	must.NoError(t, pull(rule(a.keys, "**"), "")) // it is known by now
	must.NoError(t, pull(rule(a.keys, "**"), PolicyNever))
	must.Eq(t, 0, c.n.Load())
	must.ErrorIs(t, pull(rule(b.keys, "**"), ""), ErrUnsigned) // its key does not count any more
	b.byTag(t, h, digest)
	must.NoError(t, pull(rule(b.keys, "**"), ""))
	c.n.Store(0)
	must.NoError(t, pull(rule(a.keys, "**"), "")) // nor was the first one forgotten
	must.Eq(t, 0, c.n.Load())
}

// TestRootSignedIndex signs the index, as is usual, or only this machine's part.
func TestRootSignedIndex(t *testing.T) {
	t.Parallel()
	a := newSigner(t)
	img := simple(t)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	top, err := index.Digest()
	must.NoError(t, err)
	for _, digest := range []string{top.String(), descriptor(t, img).Digest.String()} {
		h := serve(t, nil)
		ref, err := name.ParseReference(h.addr+"/app:v1", name.Insecure)
		must.NoError(t, err)
		must.NoError(t, remote.WriteIndex(ref, index))
		s := open(t, Options{}, h)
		request := PullRequest{Ref: ref.Name(), Signatures: rule(a.keys, "**")}
		_, err = s.Pull(within(t), request)
		must.ErrorIs(t, err, ErrUnsigned)
		a.byTag(t, h, digest)
		got, err := s.Pull(within(t), request)
		must.NoError(t, err)
		must.Eq(t, []string{a.keys[0].ID}, got.Signers)
	}
}

func TestRootLocalImagesAreUnsigned(t *testing.T) {
	t.Parallel()
	a := newSigner(t)
	for words, rules := range map[string][]SignatureRule{
		"on the disk carries no signature": rule(a.keys, "**"),
		"none of the driver's signature":   rule(a.keys, "registry.example"),
		"cannot read it from the disk":     {{Images: []string{"oci:/srv/images/**"}, AllowUnsigned: true}},
	} {
		_, err := open(t, Options{LocalDirs: []string{"/srv"}}).Pull(t.Context(), PullRequest{Ref: "oci:/srv/images/nothing-here", Signatures: rules})
		must.ErrorContains(t, err, words)
	}
}
