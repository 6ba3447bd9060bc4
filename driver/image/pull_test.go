package image

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

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
	img, err := s.Pull(within(t), PullRequest{Ref: ref, Progress: func(p Progress) { last = p }})
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

// TestRootPullOfLatest asks the registry each time for what has no tag but latest, unless the job says otherwise.
func TestRootPullOfLatest(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := open(t, Options{}, h)
	named := h.addr + "/app"
	users := func(policy Policy) string {
		var all []string
		for _, ref := range []string{named, named + ":latest"} {
			img, err := s.Pull(t.Context(), PullRequest{Ref: ref, Policy: policy})
			must.NoError(t, err)
			all = append(all, img.Config.User)
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct {
		pushed string
		policy Policy
		want   string
	}{{"one", "", "one one"}, {"two", PolicyMissing, "one one"}, {"two", PolicyNever, "one one"}, {"two", "", "two two"}} {
		h.push(t, "app:latest", imageOf(t, v1.Config{User: step.pushed}, tarOf(t, file("x", "y"))))
		must.Eq(t, step.want, users(step.policy), must.Sprintf("policy %q", step.policy))
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
			mine := within(t)
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

// TestRootPullWaitsForNoStrangersRegistry has a registry say of a layer that it has it, and never send it. Another
// registry's image of the same layer must not wait for that.
func TestRootPullWaitsForNoStrangersRegistry(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	layer := layerOf(t, tarOf(t, file("base", "shared")))
	digest, err := layer.Digest()
	must.NoError(t, err)
	stranger := serve(t, fail("/blobs/"+digest.String(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	honest := serve(t, nil)
	s := open(t, Options{}, stranger, honest)
	image := func(user string) v1.Image { return imageOf(t, v1.Config{User: user}, tarOf(t, file("base", "shared"))) }
	slow, quick := stranger.push(t, "app:v1", image("slow")), honest.push(t, "app:v1", image("quick"))
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Ref: slow})
		given <- err
	}()
	<-asked
	img, err := s.Pull(within(t), PullRequest{Ref: quick})
	must.NoError(t, err)
	must.Eq(t, "quick", img.Config.User)
	cancel()
	must.ErrorIs(t, <-given, context.Canceled)
}

// TestRootPullsOfOneTenantTakeTurns has a tenant ask for many images of a registry that never sends one. Another tenant's
// pull does not wait for any of that.
func TestRootPullsOfOneTenantTakeTurns(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	stranger := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked <- r.URL.Path
			<-r.Context().Done()
		})
	})
	honest := serve(t, nil)
	s := open(t, Options{}, stranger, honest)
	ref := honest.push(t, "app:v1", simple(t))
	var cancels []context.CancelFunc
	var wg sync.WaitGroup
	for i := range imagesPerTenant + 1 {
		ctx, cancel := context.WithCancel(t.Context())
		cancels = append(cancels, cancel)
		if i == imagesPerTenant {
			for range imagesPerTenant {
				<-asked // those before have their turn
			}
		}
		wg.Go(func() {
			_, err := s.Pull(ctx, PullRequest{Ref: fmt.Sprintf("%s/app%d:v1", stranger.addr, i), Tenant: "greedy"})
			must.ErrorIs(t, err, context.Canceled)
		})
	}
	must.Wait(t, waitFor(func() bool { return queued(s, "greedy") == imagesPerTenant+1 }))
	_, err := s.Pull(within(t), PullRequest{Ref: ref, Tenant: "other"})
	must.NoError(t, err)
	must.Eq(t, 0, len(asked), must.Sprint("one pull more than a tenant may have is under way"))
	cancels[0]()
	<-asked // now it is the last one's turn
	for _, cancel := range cancels {
		cancel()
	}
	wg.Wait()
	must.Eq(t, 0, queued(s, "greedy"))
	must.MapEmpty(t, s.queues.all)
}

func queued(s *Store, tenant string) int {
	s.queues.mu.Lock()
	defer s.queues.mu.Unlock()
	q := s.queues.all[tenant]
	if q == nil {
		return 0
	}
	return len(q.under) + q.waiting
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
