package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/shoenig/test/must"

	"github.com/google/go-containerregistry/pkg/name"
)

// counter counts requests whose path contains a word.
type counter struct {
	word string
	n    atomic.Int64
}

func (c *counter) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, c.word) && r.Method == http.MethodGet {
			c.n.Add(1)
		}
		next.ServeHTTP(w, r)
	})
}

func TestRootPullGivesConfigAndLayers(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	ref := h.push(t, "app:v1", simple(t))
	s := open(t, Options{}, h)
	var last Progress
	img, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: ref, Progress: func(p Progress) { last = p }})
	must.NoError(t, err)
	must.Eq(t, ref, img.Ref)
	must.Eq(t, []string{"/app"}, img.Config.Entrypoint)
	must.Eq(t, []string{"A=1"}, img.Config.Env)
	must.Eq(t, "/srv", img.Config.WorkingDir)
	must.Eq(t, "7:8", img.Config.User)
	must.Eq(t, 2, len(img.Layers))
	must.Eq(t, 7, img.Size)
	must.Eq(t, 2, last.LayersDone)
	must.Eq(t, last.TotalBytes, last.Bytes)
	want, err := simple(t).Digest()
	must.NoError(t, err)
	must.Eq(t, want.String(), img.Digest)
}

func TestRootPullPolicies(t *testing.T) {
	t.Parallel()
	c := &counter{word: "/v2/"}
	h := serve(t, c.wrap)
	ref := h.push(t, "app:v1", simple(t))
	digest, err := simple(t).Digest()
	must.NoError(t, err)
	pinned := h.addr + "/app@" + digest.String()
	dir := t.TempDir()
	s := openAt(t, dir, Options{}, h)
	_, err = s.Pull(t.Context(), PullRequest{Ref: ref, Policy: PolicyNever})
	must.ErrorIs(t, err, ErrNotPresent)
	must.False(t, IsRecoverable(err))
	for _, r := range []string{ref, pinned} {
		_, err = s.Pull(t.Context(), PullRequest{Ref: r})
		must.NoError(t, err)
	}

	// A later process has all of it, too.
	s = openAt(t, dir, Options{}, h)
	for _, tc := range []struct {
		ref     string
		policy  Policy
		network bool
	}{
		{ref, "", false},
		{ref, PolicyMissing, false},
		{ref, PolicyNever, false},
		{ref, PolicyAlways, true},
		{pinned, PolicyMissing, false},
		{pinned, PolicyAlways, false},
	} {
		c.n.Store(0)
		img, err := s.Pull(t.Context(), PullRequest{Ref: tc.ref, Policy: tc.policy})
		must.NoError(t, err)
		must.Eq(t, digest.String(), img.Digest)
		must.Eq(t, tc.network, c.n.Load() > 0, must.Sprintf("%s %s: %d requests", tc.ref, tc.policy, c.n.Load()))
	}
	_, err = s.Pull(t.Context(), PullRequest{Ref: ref, Policy: "sometimes"})
	must.ErrorContains(t, err, "unknown pull policy")

	// A moved tag is seen by "always", and by "missing" from then on.
	h.push(t, "app:v1", imageOf(t, v1.Config{User: "moved"}, tarOf(t, file("x", "y"))))
	for _, step := range []struct {
		policy Policy
		user   string
	}{{PolicyMissing, "7:8"}, {PolicyAlways, "moved"}, {PolicyMissing, "moved"}} {
		img, err := s.Pull(t.Context(), PullRequest{Ref: ref, Policy: step.policy})
		must.NoError(t, err)
		must.Eq(t, step.user, img.Config.User)
	}
}

// fail answers requests whose path contains word by f instead of the registry.
func fail(word string, f http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, word) {
				f(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestRootPullFailures(t *testing.T) {
	t.Parallel()
	garbage := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("not what was promised")) }
	stall := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("begin"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	flood := func(w http.ResponseWriter, _ *http.Request) {
		for range 5 << 10 {
			_, _ = w.Write(make([]byte, 1<<10))
		}
	}
	for _, tc := range []struct {
		name, ref   string
		wrap        func(http.Handler) http.Handler
		opts        Options
		secure      bool // the registry is not listed as insecure
		recoverable bool
		words       string
	}{
		{name: "no such tag", ref: "app:v2", words: "not found (HTTP 404); check the image's name"},
		{name: "denied", wrap: fail("/manifests/", status(401)), words: "access denied (HTTP 401); set the task's auth"},
		{name: "forbidden", wrap: fail("/manifests/v", status(403)), words: "access denied"},
		{name: "server error", wrap: fail("/manifests/", status(503)), recoverable: true, words: "HTTP 503; check that this host reaches"},
		{name: "throttled", wrap: fail("/manifests/", status(429)), recoverable: true, words: "HTTP 429"},
		{name: "plain HTTP", secure: true, words: "plain HTTP refused; serve the registry over HTTPS"},
		{name: "lying manifest", ref: "app@sha256:" + strings.Repeat("0", 64), wrap: fail("/manifests/", garbage), words: "content is not what its digest promises"},
		{name: "manifest is no JSON", wrap: fail("/manifests/", garbage), words: "no valid JSON"},
		{name: "huge manifest", wrap: fail("/manifests/", flood), words: "answer too large"},
		{name: "lying blobs", wrap: fail("/blobs/", garbage), recoverable: true, words: "cannot read blob"},
		{name: "stalled blob", wrap: fail("/blobs/", stall), opts: Options{StallTimeout: 50 * time.Millisecond}, recoverable: true, words: "no data arrived in time"},
		{name: "slow pull", wrap: fail("/blobs/", stall), opts: Options{PullTimeout: 100 * time.Millisecond}, recoverable: true, words: "pull timed out"},
		{name: "registry not allowed", opts: Options{AllowedRegistries: []string{"registry.example", "127.0.0.1:1/**"}}, words: "not allowed on this host"},
		{name: "bad reference", ref: "a b", words: "cannot parse image reference"},
		{name: "nobody there", ref: "!closed", recoverable: true, words: "refused; check that this host reaches"},
		{name: "too large", opts: Options{MaxImageBytes: 4}, words: "too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, tc.wrap)
			pushed := h.push(t, "app:v1", simple(t))
			ref := pushed
			if tc.ref != "" {
				ref = h.addr + "/" + tc.ref
			}
			if tc.ref == "!closed" {
				ref = "127.0.0.1:1/app:v1"
				tc.opts.InsecureRegistries = []string{"127.0.0.1:1"}
			}
			hosts := []*host{h}
			if tc.secure {
				hosts = nil
			}
			s := open(t, tc.opts, hosts...)
			_, err := s.Pull(within(t, 20*time.Second), PullRequest{Ref: ref, Username: "u", Password: "hunter2"})
			must.ErrorContains(t, err, tc.words)
			must.ErrorContains(t, err, "cannot pull image")
			must.Eq(t, tc.recoverable, IsRecoverable(err), must.Sprint(err))
			must.StrNotContains(t, err.Error(), "hunter2")
			assertNothingHalfMade(t, s)
		})
	}
}

func assertNothingHalfMade(t *testing.T, s *Store) {
	t.Helper()
	s.wg.Wait() // for the layer that was under way beside the one that failed
	for _, dir := range []string{"tmp", "images", "refs"} {
		entries, err := os.ReadDir(s.path(dir))
		must.NoError(t, err)
		must.Eq(t, 0, len(entries), must.Sprint(dir, entries))
	}
}

func TestRootPullResumesWhereItWasCut(t *testing.T) {
	t.Parallel()
	var ranges atomic.Int64
	img := imageOf(t, v1.Config{}, tarOf(t, file("big", noise(t, 1<<20))))
	for _, honoured := range []bool{true, false} {
		cut := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/blobs/") || r.Method != http.MethodGet {
					next.ServeHTTP(w, r)
					return
				}
				if r.Header.Get("Range") != "" {
					ranges.Add(1)
					if !honoured {
						r.Header.Del("Range")
					}
				}
				next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 300_000}, r)
			})
		}
		if !honoured {
			cut = func(next http.Handler) http.Handler { return growing(next, &ranges) }
		}
		h := serve(t, cut)
		ref := h.push(t, "app:v1", img)
		s := open(t, Options{}, h)
		ranges.Store(0)
		_, err := s.Pull(within(t, 20*time.Second), PullRequest{Ref: ref})
		must.NoError(t, err)
		must.Greater(t, 0, ranges.Load())
	}
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if c.left == 0 && err == nil {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// growing ignores ranges and gets further at each try.
func growing(next http.Handler, ranges *atomic.Int64) http.Handler {
	var tries atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			if r.Header.Get("Range") != "" {
				ranges.Add(1)
			}
			r.Header.Del("Range")
			w = &cutWriter{ResponseWriter: w, left: int(tries.Add(1)) * 400_000}
		}
		next.ServeHTTP(w, r)
	})
}

func TestRootPullsOfOneImageShareTheWork(t *testing.T) {
	t.Parallel()
	c := &counter{word: "/blobs/"}
	gate := make(chan struct{})
	held := func(next http.Handler) http.Handler {
		return c.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
				select {
				case <-gate:
				case <-r.Context().Done():
				}
			}
			next.ServeHTTP(w, r)
		}))
	}
	h := serve(t, held)
	ref := h.push(t, "app:v1", simple(t))
	s := open(t, Options{}, h)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			mine := within(t, 20*time.Second)
			if i < 3 {
				mine = ctx
			}
			_, errs[i] = s.Pull(mine, PullRequest{Ref: ref})
		})
	}
	must.Wait(t, waitFor(func() bool { return c.n.Load() > 0 && waiters(s) == 8 }))
	cancel() // three give up, one of them maybe the first
	must.Wait(t, waitFor(func() bool { return waiters(s) == 5 }))
	close(gate)
	wg.Wait()
	for i, err := range errs {
		if i < 3 {
			must.ErrorIs(t, err, context.Canceled)
			continue
		}
		must.NoError(t, err)
	}
	must.Eq(t, 3, c.n.Load()) // config and two layers, once
}

func waiters(s *Store) int {
	s.images.mu.Lock()
	defer s.images.mu.Unlock()
	n := 0
	for _, f := range s.images.all {
		n += f.waiters
	}
	return n
}

func TestRootPullCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 10)
	h := serve(t, fail("/blobs/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write([]byte("some"))
		_ = http.NewResponseController(w).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	}))
	ref := h.push(t, "app:v1", simple(t))
	s := open(t, Options{}, h)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	_, err := s.Pull(ctx, PullRequest{Ref: ref})
	must.ErrorIs(t, err, context.Canceled)
	must.NoError(t, s.Close())
	assertNothingHalfMade(t, s)
	s.lock, err = os.Open(s.path("lock")) // for the clean-up's second Close
	must.NoError(t, err)
}

func TestRootPullPicksThisPlatform(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	arm := imageOf(t, v1.Config{User: "arm"}, tarOf(t, file("a", "b")))
	index := func(adds ...mutate.IndexAddendum) v1.ImageIndex { return mutate.AppendManifests(empty.Index, adds...) }
	entry := func(img mutate.Appendable, os, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}}
	}
	deep := mutate.Appendable(simple(t))
	nested := func(depth int) v1.ImageIndex {
		idx := index(entry(deep, "linux", "amd64"))
		for range depth {
			idx = index(mutate.IndexAddendum{Add: idx})
		}
		return idx
	}
	for _, tc := range []struct {
		name  string
		index v1.ImageIndex
		words string
	}{
		{"several", index(entry(arm, "linux", "arm64"), entry(arm, "unknown", "unknown"), entry(simple(t), "linux", "amd64")), ""},
		{"none", index(entry(arm, "linux", "arm64"), entry(arm, "windows", "amd64")), "no variant for this machine"},
		{"nested", nested(3), ""},
		{"too deep", nested(5), "nest more than"},
		{"empty", index(), "no variant"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tag, err := name.ParseReference(h.addr+"/multi:"+strings.ReplaceAll(tc.name, " ", "-"), name.Insecure)
			must.NoError(t, err)
			must.NoError(t, remote.WriteIndex(tag, tc.index))
			s := open(t, Options{}, h)
			img, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: tag.Name()})
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				must.False(t, IsRecoverable(err))
				return
			}
			must.NoError(t, err)
			must.Eq(t, "7:8", img.Config.User)
		})
	}
}

func TestRootPullRefusesHostileImages(t *testing.T) {
	t.Parallel()
	good := tarOf(t, file("a", "b"))
	for _, tc := range []struct {
		name   string
		config v1.Config
		layers [][]byte
		words  string
	}{
		{"relative work dir", v1.Config{WorkingDir: "srv"}, [][]byte{good}, "working directory"},
		{"unclean work dir", v1.Config{WorkingDir: "/a/../../b"}, [][]byte{good}, "working directory"},
		{"leaked descriptor", v1.Config{WorkingDir: "/proc/self/fd/7"}, [][]byte{good}, "working directory"},
		{"nameless variable", v1.Config{Env: []string{"=x"}}, [][]byte{good}, "environment"},
		{"zero byte", v1.Config{Cmd: []string{"a\x00b"}}, [][]byte{good}, "zero byte"},
		{"dev is a link", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc"))}, "/dev is not a directory"},
		{"proc is a file", v1.Config{}, [][]byte{tarOf(t, file("proc", ""))}, "/proc is not a directory"},
		{"sys becomes a link", v1.Config{}, [][]byte{tarOf(t, dir("sys")), tarOf(t, link("sys", "tmp"))}, "/sys is not a directory"},
		{"escape", v1.Config{}, [][]byte{tarOf(t, file("../x", "y"))}, "'..'"},
		{"dev is put right", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc")), tarOf(t, dir("dev"))}, ""},
		{"dev is removed", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc")), tarOf(t, file(".wh.dev", ""))}, ""},
		{"layer repeats", v1.Config{}, [][]byte{good, tarOf(t, file("c", "d")), good}, ""},
		{"no layers", v1.Config{}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, nil)
			ref := h.push(t, "app:v1", imageOf(t, tc.config, tc.layers...))
			s := open(t, Options{}, h)
			img, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: ref})
			if tc.words == "" {
				must.NoError(t, err)
				_, err = s.Mount(t.Context(), MountRequest{ID: "t", Image: img, HostUID: base, HostGID: base, IDCount: 65536})
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.words)
			must.False(t, IsRecoverable(err))
			assertNothingHalfMade(t, s)
		})
	}
}

// TestRootPullRefusesHostileManifests pushes documents that no library would write.
func TestRootPullRefusesHostileManifests(t *testing.T) {
	t.Parallel()
	img, err := random.Image(100, 1)
	must.NoError(t, err)
	raw, err := img.RawManifest()
	must.NoError(t, err)
	edit := func(f func(m map[string]any)) []byte {
		var m map[string]any
		must.NoError(t, json.Unmarshal(raw, &m))
		f(m)
		out, err := json.Marshal(m)
		must.NoError(t, err)
		return out
	}
	layer0 := func(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }
	for _, tc := range []struct {
		name, words string
		body        []byte
	}{
		{"two kinds at once", "neither an image nor an index", edit(func(m map[string]any) { m["mediaType"] = types.OCIImageIndex })},
		{"schema 1", "neither an image nor an index", edit(func(m map[string]any) { m["schemaVersion"] = 1 })},
		{"unknown layer type", "is of type", edit(func(m map[string]any) { layer0(m)["mediaType"] = "application/x-sh" })},
		{"foreign layer", "is of type", edit(func(m map[string]any) { layer0(m)["mediaType"] = types.DockerForeignLayer })},
		{"digest as a path", "non-hex", edit(func(m map[string]any) { layer0(m)["digest"] = "sha256:../../../../etc/passwd" })},
		{"more layers than diff IDs", "its config 1", edit(func(m map[string]any) { m["layers"] = append(m["layers"].([]any), layer0(m)) })},
		{"negative size", "no valid digest and size", edit(func(m map[string]any) { layer0(m)["size"] = -1 })},
		{"wrong size", "cannot read blob", edit(func(m map[string]any) { layer0(m)["size"] = 1 << 20 })},
		{"huge config", "no valid digest and size", edit(func(m map[string]any) { m["config"].(map[string]any)["size"] = 1 << 40 })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, fail("/manifests/v1", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
				_, _ = w.Write(tc.body)
			}))
			ref := h.push(t, "app:v1", img)
			s := open(t, Options{StallTimeout: time.Second}, h)
			_, err := s.Pull(within(t, 20*time.Second), PullRequest{Ref: ref})
			must.ErrorContains(t, err, tc.words)
			assertNothingHalfMade(t, s)
		})
	}
}

func TestRootPullZstd(t *testing.T) {
	t.Parallel()
	plain := tarOf(t, file("z", "zstd"), dir("dev"))
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf)
	must.NoError(t, err)
	_, err = w.Write(plain)
	must.NoError(t, errors.Join(err, w.Close()))
	h := serve(t, nil)
	img, err := mutate.Append(imageOf(t, v1.Config{}), mutate.Addendum{
		Layer: zstdLayer{Layer: layerOf(t, plain), body: buf.Bytes()}, MediaType: types.OCILayerZStd,
	})
	must.NoError(t, err)
	ref := h.push(t, "app:zstd", img)
	s := open(t, Options{}, h)
	got, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: ref})
	must.NoError(t, err)
	content, err := os.ReadFile(s.path("layers", hexOf(got.Layers[0]), "fs/z"))
	must.NoError(t, err)
	must.Eq(t, "zstd", string(content))
}

func TestRootPullFromTheDisk(t *testing.T) {
	t.Parallel()
	task := t.TempDir()
	other := t.TempDir()
	writeArchives(t, task)
	must.NoError(t, os.Symlink(filepath.Join(task, "docker.tar"), filepath.Join(other, "out.tar")))
	s := open(t, Options{LocalDirs: []string{task}})
	for _, tc := range []struct{ ref, dir, words string }{
		{"oci:layout", task, ""},
		{"oci:" + task + "/layout", "", ""},
		{"oci-archive:layout.tar", task, ""},
		{"docker-archive:docker.tar", task, ""},
		{"docker-archive:" + task + "/docker.tar:app:v1", "", ""},
		{"docker-archive:docker.tar:app:v2", task, `no image "app:v2"`},
		{"oci:layout:latest", task, `no image "latest"`},
		{"oci:layout", "", "needs a task directory"},
		{"oci:../layout", task, "escapes"},
		{"docker-archive:out.tar", other, "escapes"},
		{"docker-archive:/etc/passwd", task, "in none of the driver's image directories"},
		{"oci-archive:layout/index.json", task, "not a valid image archive"},
		{"oci-archive:nothing.tar", task, "no such file"},
		{"oci:", task, "no path"},
	} {
		t.Run(tc.ref, func(t *testing.T) {
			t.Parallel()
			img, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: tc.ref, Dir: tc.dir})
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				must.False(t, IsRecoverable(err), must.Sprint(err))
				return
			}
			must.NoError(t, err)
			must.Eq(t, "7:8", img.Config.User)
			must.Eq(t, 2, len(img.Layers))
		})
	}
}

func TestRootPullUsesMirrorsAndCredentials(t *testing.T) {
	t.Parallel()
	basic := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	var closed atomic.Bool
	h := serve(t, func(next http.Handler) http.Handler {
		locked := basic(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if closed.Load() {
				locked.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := h.push(t, "app:v1", simple(t))
	h.push(t, "cache/app:v1", simple(t))
	closed.Store(true)
	auth := filepath.Join(t.TempDir(), "config.json")
	must.NoError(t, os.WriteFile(auth, fmt.Appendf(nil, `{"auths":{%q:{"username":"user","password":"secret"}}}`, h.addr), 0o600))
	for _, tc := range []struct {
		name, ref, user, password string
		opts                      Options
		ok                        bool
	}{
		{name: "none", ref: ref},
		{name: "static", ref: ref, user: "user", password: "secret", ok: true},
		{name: "wrong", ref: ref, user: "user", password: "wrong"},
		{name: "file", ref: ref, opts: Options{AuthFile: auth}, ok: true},
		{name: "no file", ref: ref, opts: Options{AuthFile: auth + ".missing"}},
		{
			name: "mirror", ref: "registry.example/app:v1", ok: true,
			opts: Options{AuthFile: auth, Mirrors: map[string][]string{"registry.example": {"127.0.0.1:1", h.addr + "/cache"}}},
		},
		{
			name: "mirror gets no task credentials", ref: "127.0.0.1:1/app:v1", user: "user", password: "secret",
			opts: Options{Mirrors: map[string][]string{"127.0.0.1:1": {h.addr + "/cache"}}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tc.opts, h)
			_, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: tc.ref, Username: tc.user, Password: tc.password})
			must.Eq(t, tc.ok, err == nil, must.Sprint(err))
			if err != nil {
				must.StrNotContains(t, err.Error(), "secret")
			}
		})
	}
}
