package image

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
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
	img, err := s.Pull(within(t, time.Minute), PullRequest{Ref: ref, Progress: func(p Progress) { last = p }})
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
