package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a registry in this process.
type host struct{ addr string }

// serve starts a registry behind wrap, if given.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) *host {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	must.NoError(t, err)
	return &host{addr: u.Host}
}

func (h *host) push(t *testing.T, ref string, img v1.Image) string {
	t.Helper()
	tag, err := name.ParseReference(h.addr+"/"+ref, name.Insecure)
	must.NoError(t, err)
	must.NoError(t, remote.Write(tag, img))
	return tag.Name()
}

func open(t *testing.T, opts Options, insecure ...*host) *Store {
	t.Helper()
	return openAt(t, t.TempDir(), opts, insecure...)
}

func openAt(t *testing.T, dir string, opts Options, insecure ...*host) *Store {
	t.Helper()
	for _, h := range insecure {
		opts.InsecureRegistries = append(opts.InsecureRegistries, h.addr)
	}
	s, err := Open(dir, opts)
	must.NoError(t, err)
	t.Cleanup(func() {
		ids, err := s.Mounts()
		must.NoError(t, err)
		for _, id := range ids {
			must.NoError(t, s.Unmount(id))
		}
		must.NoError(t, s.Close())
	})
	return s
}

func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		body := []byte(h.Linkname)
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			h.Size, h.Linkname, h.Typeflag = int64(len(body)), "", tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		must.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write(body)
			must.NoError(t, err)
		}
	}
	must.NoError(t, w.Close())
	return buf.Bytes()
}

// file describes a regular file; its content travels in Linkname until tarOf writes it.
func file(name, content string) tar.Header { return tar.Header{Name: name, Linkname: content} }
func dir(name string) tar.Header           { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func layerOf(t *testing.T, body []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil })
	must.NoError(t, err)
	return l
}

func imageOf(t *testing.T, config v1.Config, layers ...[]byte) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, l := range layers {
		all = append(all, layerOf(t, l))
	}
	img, err := mutate.AppendLayers(empty.Image, all...)
	must.NoError(t, err)
	cf, err := img.ConfigFile()
	must.NoError(t, err)
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", config
	img, err = mutate.ConfigFile(img, cf)
	must.NoError(t, err)
	return img
}

func simple(t *testing.T) v1.Image {
	t.Helper()
	return imageOf(t, v1.Config{Entrypoint: []string{"/app"}, Env: []string{"A=1"}, WorkingDir: "/srv", User: "7:8"},
		tarOf(t, dir("srv/"), file("srv/a", "one"), file("etc/keep", "x"), dir("dev"), dir("proc"), dir("sys")),
		tarOf(t, file("srv/b", "two"), file("etc/.wh.keep", "")))
}

// noise is n bytes that do not compress.
func noise(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	must.NoError(t, err)
	return string(b)
}

// patience is how long a test waits for what is sure to come, on however slow a machine.
const patience = 3 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestRootOpenDoesNotAwaitTheSweep has something left in tmp that takes as long as we like: opening a FIFO waits for its
// other end. The driver holds its own lock while it opens a store.
func TestRootOpenDoesNotAwaitTheSweep(t *testing.T) {
	t.Parallel()
	at := t.TempDir()
	openAt(t, at, Options{})
	slow := filepath.Join(at, "images/tmp/slow")
	must.NoError(t, unix.Mkfifo(slow, 0o600))
	opened := make(chan *Store)
	go func() {
		s, err := Open(at, Options{})
		must.NoError(t, err)
		opened <- s
	}()
	var s *Store
	select {
	case s = <-opened:
	case <-within(t).Done():
		t.Error("it waits for the sweep")
	}
	end, err := os.OpenFile(slow, os.O_WRONLY, 0)
	must.NoError(t, err)
	must.NoError(t, end.Close())
	if s == nil {
		s = <-opened
	}
	<-s.swept
	_, err = os.Lstat(slow)
	must.ErrorIs(t, err, os.ErrNotExist)
	must.NoError(t, s.Close())
}
