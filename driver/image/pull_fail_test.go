package image

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
)

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
		{name: "throttled", wrap: fail("/manifests/", status(429)), recoverable: true, words: "too many requests (HTTP 429); wait"},
		{name: "plain HTTP", secure: true, opts: Options{AllowedRegistries: []string{"!named"}}, words: "plain HTTP refused; serve the registry over HTTPS"},
		{name: "private address", ref: "!private", words: "not public; use a public registry, or let the operator name this one"},
		{name: "glob names nobody", ref: "!private", opts: Options{AllowedRegistries: []string{"*", "*:*"}}, words: "not public"},
		{name: "lying manifest", ref: "app@sha256:" + strings.Repeat("0", 64), wrap: fail("/manifests/", garbage), words: "content is not what its digest promises"},
		{name: "manifest is no JSON", wrap: fail("/manifests/", garbage), words: "no valid JSON"},
		{name: "huge manifest", wrap: fail("/manifests/", flood), words: "answer too large"},
		{name: "lying blobs", wrap: fail("/blobs/", garbage), recoverable: true, words: "cannot read blob"},
		{name: "stalled blob", wrap: fail("/blobs/", stall), opts: Options{StallTimeout: 50 * time.Millisecond}, recoverable: true, words: "no data arrived in time"},
		{name: "slow pull", wrap: fail("/blobs/", stall), opts: Options{PullTimeout: 100 * time.Millisecond}, recoverable: true, words: "pull timed out"},
		{name: "registry not allowed", opts: Options{AllowedRegistries: []string{"registry.example", "127.0.0.1:1/**"}}, words: "not allowed on this host"},
		{name: "path in a path", ref: "team/../app:v1", opts: Options{AllowedRegistries: []string{"*"}}, words: "no clean path"},
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
			if slices.Contains(tc.opts.AllowedRegistries, "!named") {
				tc.opts.AllowedRegistries = []string{h.addr}
			}
			if tc.ref == "!private" {
				ref = "169.254.169.254/app:v1"
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
			_, err := s.Pull(within(t), PullRequest{Ref: ref, Username: "u", Password: "hunter2"})
			must.ErrorContains(t, err, tc.words)
			must.ErrorContains(t, err, "cannot pull image")
			must.Eq(t, tc.recoverable, IsRecoverable(err), must.Sprint(err))
			must.StrNotContains(t, err.Error(), "hunter2")
			assertNothingHalfMade(t, s)
		})
	}
}

// TestRootRegistryFaults holds what registries do wrong besides answering an error.
func TestRootRegistryFaults(t *testing.T) {
	t.Parallel()
	half := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	endless := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	to := func(where string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, where, http.StatusTemporaryRedirect) }
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>log in</html>"))
	}
	later := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	}
	for _, tc := range []struct {
		name        string
		wrap        func(http.Handler) http.Handler
		opts        Options
		recoverable bool
		words       string
	}{
		{"manifest cut off", fail("/manifests/", half), Options{}, true, "EOF"},
		{"blobs always cut off", fail("/blobs/", half), Options{}, true, "cannot read blob"},
		{"blobs without end", fail("/blobs/", endless(http.StatusOK)), Options{}, false, "not what its digest promises"},
		{"an error without end", fail("/manifests/", endless(http.StatusInternalServerError)), Options{}, true, "HTTP 500"},
		{"a blob's error without end", fail("/blobs/", endless(http.StatusBadGateway)), Options{}, true, "HTTP 502"},
		{"blobs drop by drop", fail("/blobs/", drip), Options{PullTimeout: 300 * time.Millisecond}, true, "pull timed out"},
		{"a manifest drop by drop", fail("/manifests/", drip), Options{StallTimeout: 300 * time.Millisecond}, true, "no data arrived in time"},
		{"no answer", fail("/manifests/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), Options{StallTimeout: 300 * time.Millisecond}, true, "no data arrived in time"},
		{"redirects in a circle", fail("/manifests/", to("/v2/app/manifests/v1")), Options{}, true, "10 redirects"},
		{"redirect of a blob in a circle", fail("/blobs/", to("/v2/app/blobs/x")), Options{}, true, "10 redirects"},
		{"redirect to a file", fail("/blobs/", to("file:///etc/passwd")), Options{}, false, "plain HTTP refused"},
		{"redirect to metadata", fail("/blobs/", to("https://169.254.169.254/latest")), Options{}, false, "not public"},
		{"a page for a manifest", fail("/manifests/", page), Options{}, false, "no valid JSON"},
		{"a page for a blob", fail("/blobs/", page), Options{}, true, "cannot read blob"},
		{"gone", fail("/blobs/", status(http.StatusGone)), Options{}, true, "HTTP 410"},
		{"blobs forbidden", fail("/blobs/", status(http.StatusForbidden)), Options{}, false, "access denied (HTTP 403)"},
		{"blobs missing", fail("/blobs/", status(http.StatusNotFound)), Options{}, false, "not found (HTTP 404)"},
		{"throttled for ever", fail("/manifests/", later), Options{}, true, "too many requests"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, tc.wrap)
			ref := h.push(t, "app:v1", simple(t))
			s := open(t, tc.opts, h)
			_, err := s.Pull(within(t), PullRequest{Ref: ref})
			must.ErrorContains(t, err, tc.words)
			must.Eq(t, tc.recoverable, IsRecoverable(err), must.Sprint(err))
			must.Less(t, 1000, len(err.Error()))
			assertNothingHalfMade(t, s)
			must.SliceEmpty(t, kept(t, s))
		})
	}
}

// TestRootPullWaitsAsTold has a registry ask for patience twice.
func TestRootPullWaitsAsTold(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	h := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet && asked.Add(1) <= 2 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := h.push(t, "app:v1", simple(t))
	began := time.Now()
	_, err := open(t, Options{}, h).Pull(within(t), PullRequest{Ref: ref})
	must.NoError(t, err)
	must.GreaterEq(t, 2*time.Second, time.Since(began))
}

func TestRootPullChecksCertificates(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	addr := strings.TrimPrefix(srv.URL, "https://")
	s := open(t, Options{AllowedRegistries: []string{addr}})
	ctx := within(t)
	pull := func() error {
		_, err := s.Pull(ctx, PullRequest{Ref: addr + "/app:v1"})
		return err
	}
	err := pull()
	for IsRecoverable(err) && ctx.Err() == nil { // where many tests keep the processors busy a handshake may take too long
		err = pull()
	}
	must.ErrorContains(t, err, "certificate cannot be verified")
	must.False(t, IsRecoverable(err))
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
		_, err := s.Pull(within(t), PullRequest{Ref: ref})
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
