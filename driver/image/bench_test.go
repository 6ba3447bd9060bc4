package image

import (
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/shoenig/test/must"

	images "pangaea/e2e/registry"
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
	img, err := images.Big()
	must.NoError(b, err)
	must.NoError(b, remote.Write(ref, img))
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
