package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/shoenig/test/must"
)

// BenchmarkRootPull pulls and unpacks an image of 656 MB in 6 layers and 20,000 files, a third of that
// compressed, from a registry in this process.
func BenchmarkRootPull(b *testing.B) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	must.NoError(b, err)
	ref, err := name.ParseReference(u.Host+"/big:v1", name.Insecure)
	must.NoError(b, err)
	must.NoError(b, remote.Write(ref, bigImage(b)))
	for b.Loop() {
		b.StopTimer()
		s, err := Open(b.TempDir(), Options{InsecureRegistries: []string{u.Host}})
		must.NoError(b, err)
		b.StartTimer()
		img, err := s.Pull(b.Context(), PullRequest{Ref: ref.Name()})
		must.NoError(b, err)
		b.StopTimer()
		b.SetBytes(img.Size)
		must.NoError(b, s.Close())
		must.NoError(b, os.RemoveAll(s.root))
		b.StartTimer()
	}
}

func bigImage(b *testing.B) v1.Image {
	b.Helper()
	img := empty.Image
	rng := rand.NewChaCha8([32]byte{1})
	for l := range 6 {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for f := range 3334 {
			body := mixed(rng, 32<<10)
			h := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", l, f/50, f), Mode: 0o644, Size: int64(len(body))}
			must.NoError(b, w.WriteHeader(h))
			_, err := w.Write(body)
			must.NoError(b, err)
		}
		must.NoError(b, w.Close())
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
		must.NoError(b, err)
		img, err = mutate.AppendLayers(img, layer)
		must.NoError(b, err)
	}
	return img
}

// mixed makes content that gzip packs to about a third, in short matches as program text has them.
func mixed(rng *rand.ChaCha8, n int) []byte {
	words := make([]string, 64)
	out := make([]byte, 0, n+64)
	for i := range words {
		words[i] = fmt.Sprintf("%x", rng.Uint64())
	}
	for len(out) < n {
		out = append(out, words[rng.Uint64()%64]...)
		var raw [8]byte
		_, _ = rng.Read(raw[:3])
		out = append(out, raw[:3]...)
	}
	return out[:n]
}

// BenchmarkRootPullCached is what every start of a task pays.
func BenchmarkRootPullCached(b *testing.B) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	must.NoError(b, err)
	ref, err := name.ParseReference(u.Host+"/small:v1", name.Insecure)
	must.NoError(b, err)
	t := &testing.T{}
	must.NoError(b, remote.Write(ref, simple(t)))
	s, err := Open(b.TempDir(), Options{InsecureRegistries: []string{u.Host}})
	must.NoError(b, err)
	defer func() { must.NoError(b, s.Close()) }()
	for b.Loop() {
		_, err := s.Pull(b.Context(), PullRequest{Ref: ref.Name()})
		must.NoError(b, err)
	}
}

// BenchmarkRootMount mounts and unmounts with a user namespace.
func BenchmarkRootMount(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	must.NoError(b, err)
	b.Cleanup(func() { _ = s.Close() })
	img := &Image{Ref: "bench", Digest: "sha256:" + strings.Repeat("a", 64)}
	for b.Loop() {
		_, err := s.Mount(b.Context(), MountRequest{ID: "bench", Image: img, HostUID: base, HostGID: base, IDCount: 65536})
		must.NoError(b, err)
		must.NoError(b, s.Unmount("bench"))
	}
}
