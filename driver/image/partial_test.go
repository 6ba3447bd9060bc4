package image

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
)

// faucet gives blobs out up to a mark and then nothing more, until the mark is raised.
type faucet struct {
	mu    sync.Mutex
	mark  int
	open  chan struct{}
	froms []int
}

func newFaucet(mark int) *faucet { return &faucet{mark: mark, open: make(chan struct{})} }

func (f *faucet) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") || r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		from := 0
		after, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
		if ok {
			from, _ = strconv.Atoi(strings.Split(after, "-")[0])
		}
		f.mu.Lock()
		f.froms = append(f.froms, from)
		left := f.mark - from
		f.mu.Unlock()
		next.ServeHTTP(&drip{ResponseWriter: w, r: r, f: f, left: left}, r)
	})
}

// release lets everything through from now on.
func (f *faucet) release() { close(f.open) }

func (f *faucet) begins() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.froms
	f.froms = nil
	return out
}

type drip struct {
	http.ResponseWriter
	r    *http.Request
	f    *faucet
	left int
}

func (d *drip) Write(p []byte) (int, error) {
	if len(p) > d.left {
		n, err := d.ResponseWriter.Write(p[:max(0, d.left)])
		if err != nil {
			return n, err
		}
		_ = http.NewResponseController(d.ResponseWriter).Flush()
		select {
		case <-d.f.open:
		case <-d.r.Context().Done():
			return n, d.r.Context().Err()
		}
		m, err := d.ResponseWriter.Write(p[n:])
		d.left = 1 << 40
		return n + m, err
	}
	d.left -= len(p)
	return d.ResponseWriter.Write(p)
}

// kept gives the sizes of what is kept of downloads.
func kept(t *testing.T, s *Store) []int64 {
	t.Helper()
	entries, err := os.ReadDir(s.path("partial"))
	must.NoError(t, err)
	var out []int64
	for _, e := range entries {
		st, err := e.Info()
		must.NoError(t, err)
		out = append(out, st.Size())
	}
	return out
}

// first is the size of the first file of a directory, if there is one.
func first(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return 0
	}
	st, err := entries[0].Info()
	if err != nil {
		return 0
	}
	return st.Size()
}

const bigSize = 8 << 20

func big(t *testing.T) v1.Image {
	t.Helper()
	return imageOf(t, v1.Config{}, tarOf(t, file("big", noise(t, bigSize))))
}

func checkBig(t *testing.T, s *Store, img *Image) {
	t.Helper()
	st, err := os.Stat(s.path("layers", hexOf(img.Layers[0]), "fs", "big"))
	must.NoError(t, err)
	must.Eq(t, bigSize, st.Size())
	must.SliceEmpty(t, kept(t, s))
}

// TestRootPullResumesAfterKill kills the process in the middle of a layer; another one goes on from there.
func TestRootPullResumesAfterKill(t *testing.T) {
	t.Parallel()
	f := newFaucet(bigSize / 2)
	h := serve(t, f.wrap)
	ref := h.push(t, "app:v1", big(t))
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestRootKilledProcess$")
	cmd.Env = append(os.Environ(), "PANGAEA_TEST_REF="+ref, "PANGAEA_TEST_STORE="+dir)
	must.NoError(t, cmd.Start())
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return first(dir+"/images/partial") >= bigSize/2-1<<20 }),
		wait.Timeout(patience), wait.Gap(5*time.Millisecond)))
	must.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s := openAt(t, dir, Options{}, h)
	must.Len(t, 1, kept(t, s))
	had := int(kept(t, s)[0])
	f.begins()
	f.release()
	img, err := s.Pull(within(t), PullRequest{Ref: ref})
	must.NoError(t, err)
	checkBig(t, s, img)
	must.Eq(t, []int{0, had}, f.begins()) // the config, and the rest of the layer
}

// TestRootKeptDownloads damages what was kept, or lets others have it.
func TestRootKeptDownloads(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, path string)
		froms  int // requests for the layer
	}{
		{"whole", func(*testing.T, string) {}, 1},
		{"bit flipped", func(t *testing.T, path string) { scribble(t, path, bigSize/4) }, 2},
		{"zeros, as after a power loss", func(t *testing.T, path string) { must.NoError(t, os.WriteFile(path, make([]byte, bigSize/2), 0o600)) }, 2},
		{"longer than the blob", func(t *testing.T, path string) { must.NoError(t, os.Truncate(path, 2*bigSize)) }, 1},
		{"as long as the blob, but another", func(t *testing.T, path string) { must.NoError(t, os.WriteFile(path, make([]byte, blobSize(t)), 0o600)) }, 1},
		{"gone", func(t *testing.T, path string) { must.NoError(t, os.Remove(path)) }, 1},
		{"held by another process", hold, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFaucet(bigSize / 2)
			h := serve(t, f.wrap)
			ref := h.push(t, "app:v1", fixed(t))
			s := open(t, Options{StallTimeout: patience}, h)
			ctx := within(t)
			// A cancelled pull keeps what it has.
			cut, cancel := contextWhen(t, ctx, func() bool { return first(s.path("partial")) > bigSize/4 })
			defer cancel()
			_, err := s.Pull(cut, PullRequest{Ref: ref})
			must.Error(t, err)
			s.wg.Wait()
			entries, err := os.ReadDir(s.path("partial"))
			must.NoError(t, err)
			must.Len(t, 1, entries)
			tc.change(t, s.path("partial", entries[0].Name()))
			f.begins()
			f.release()
			img, err := s.Pull(ctx, PullRequest{Ref: ref})
			must.NoError(t, err)
			if tc.name != "held by another process" {
				checkBig(t, s, img)
			}
			must.Len(t, 1+tc.froms, f.begins())
		})
	}
}

// fixed is big without chance, so that its size is known.
func fixed(t *testing.T) v1.Image {
	t.Helper()
	body := make([]byte, bigSize)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(body)
	return imageOf(t, v1.Config{}, tarOf(t, file("big", string(body))))
}

func blobSize(t *testing.T) int64 {
	t.Helper()
	layers, err := fixed(t).Layers()
	must.NoError(t, err)
	size, err := layers[0].Size()
	must.NoError(t, err)
	return size
}

func scribble(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must.NoError(t, err)
	_, err = f.WriteAt([]byte("scribble"), at)
	must.NoError(t, err)
	must.NoError(t, f.Close())
}

func hold(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must.NoError(t, err)
	must.NoError(t, tryLock(f))
	t.Cleanup(func() { _ = f.Close() })
}

// contextWhen is cancelled once cond holds.
func contextWhen(t *testing.T, parent context.Context, cond func() bool) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(parent)
	go func() {
		for ctx.Err() == nil && !cond() {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	return ctx, cancel
}

// TestRootKeptDownloadsGo shows what ends them: age, the bound on all of them, a full disk.
func TestRootKeptDownloadsGo(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := open(t, Options{}, h)
	for _, name := range []string{"a", "b", "c"} {
		must.NoError(t, os.WriteFile(s.path("partial", strings.Repeat(name, 64)), make([]byte, 100), 0o600))
	}
	old := func(name string, age time.Duration) {
		when := time.Now().Add(-age)
		must.NoError(t, os.Chtimes(s.path("partial", strings.Repeat(name, 64)), when, when))
	}
	old("a", 2*time.Hour)
	old("b", time.Hour)
	s.trimPartials(250)
	must.Len(t, 2, kept(t, s)) // the oldest had to go
	_, err := os.Stat(s.path("partial", strings.Repeat("a", 64)))
	must.ErrorIs(t, err, os.ErrNotExist)
	old("b", maxKeptAge+time.Hour)
	_, err = s.GC(t.Context(), GCPolicy{})
	must.NoError(t, err)
	must.Len(t, 1, kept(t, s))
	_, err = s.GC(t.Context(), GCPolicy{HighWatermark: 1e-9, LowWatermark: 1e-9})
	must.NoError(t, err)
	must.SliceEmpty(t, kept(t, s))
}
