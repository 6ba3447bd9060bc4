package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
)

// pulled pulls an image of a shared base layer and one of its own, last used so long ago.
func pulled(t *testing.T, s *Store, h *host, name string, idle time.Duration) *Image {
	t.Helper()
	ref := h.push(t, name+":v1", imageOf(t, v1.Config{User: name}, tarOf(t, file("base", "shared")), tarOf(t, file("own", name))))
	img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
	must.NoError(t, err)
	then := time.Now().Add(-idle)
	must.NoError(t, os.Chtimes(s.path("images", hexOf(img.Digest)), then, then))
	return img
}

func layersIn(t *testing.T, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(s.path("layers"))
	must.NoError(t, err)
	return len(entries) - 1 // the empty one
}

func TestRootGCKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	for _, tc := range []struct {
		name           string
		policy         GCPolicy
		mounted        bool
		images, layers int // that go, of 3 and 4
	}{
		{"no policy", GCPolicy{}, false, 0, 0},
		{"by age", GCPolicy{MaxAge: 2 * hour}, false, 1, 1},
		{"by age, but mounted", GCPolicy{MaxAge: 2 * hour}, true, 0, 0},
		{"all old enough", GCPolicy{MaxAge: time.Minute}, false, 2, 2},
		{"even the newest", GCPolicy{MaxAge: time.Nanosecond, MinIdle: time.Nanosecond}, false, 3, 4},
		{"disk full", GCPolicy{HighWatermark: 0.0001, LowWatermark: 0.00005}, false, 2, 2},
		{"disk empty", GCPolicy{HighWatermark: 0.99999, LowWatermark: 0.5}, false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, nil)
			dir := t.TempDir()
			s := openAt(t, dir, Options{}, h)
			old := pulled(t, s, h, "old", 3*hour)
			if tc.mounted {
				_, err := s.Mount(t.Context(), MountRequest{ID: "m", Image: old, HostUID: base, HostGID: base, IDCount: 65536})
				must.NoError(t, err)
			}
			pulled(t, s, h, "mid", hour)
			pulled(t, s, h, "new", 0)
			must.Eq(t, 4, layersIn(t, s))

			res, err := s.GC(t.Context(), tc.policy)
			must.NoError(t, err)
			must.False(t, res.Busy)
			must.Eq(t, tc.images, res.Images)
			must.Eq(t, tc.layers, res.Layers)
			must.Eq(t, 4-tc.layers, layersIn(t, s))
			refs, err := os.ReadDir(s.path("refs"))
			must.NoError(t, err)
			must.Eq(t, 3-tc.images, len(refs))
			tmp, err := os.ReadDir(s.path("tmp"))
			must.NoError(t, err)
			must.Eq(t, 0, len(tmp))
			if tc.mounted {
				got, err := os.ReadFile(filepath.Join(s.rootfsDir("m"), "rootfs/own"))
				must.NoError(t, err)
				must.Eq(t, "old", string(got))
			}
		})
	}
}

// TestRootGCBelowTheHighWatermark has something to clear away on a disk that is fuller than the low watermark and not as
// full as the high one: no image goes for that.
func TestRootGCBelowTheHighWatermark(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := open(t, Options{}, h)
	pulled(t, s, h, "app", time.Hour)
	left := s.path("layers", strings.Repeat("ab", 32))
	must.NoError(t, os.Mkdir(left, 0o700))
	must.NoError(t, s.writeJSON(filepath.Join(left, "meta.json"), layerMeta{Bytes: 1}))
	must.Less(t, 0.9999, s.diskUsed())
	res, err := s.GC(t.Context(), GCPolicy{HighWatermark: 0.9999, LowWatermark: 0.00005})
	must.NoError(t, err)
	must.Eq(t, 1, res.Layers)
	must.Zero(t, res.Images)
}

func TestRootGCThenMountFailsAndPullHeals(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := open(t, Options{}, h)
	img := pulled(t, s, h, "app", time.Hour)
	_, err := s.GC(t.Context(), GCPolicy{MaxAge: time.Minute})
	must.NoError(t, err)
	_, err = s.Mount(t.Context(), MountRequest{ID: "m", Image: img})
	must.ErrorIs(t, err, ErrNotPresent)
	img, err = s.Pull(t.Context(), PullRequest{Ref: img.Ref})
	must.NoError(t, err)
	_, err = s.Mount(t.Context(), MountRequest{ID: "m", Image: img})
	must.NoError(t, err)
}

func TestRootGCLeavesAStoreOfTwoProcessesAlone(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	dir := t.TempDir()
	a, b := openAt(t, dir, Options{}, h), openAt(t, dir, Options{}, h)
	pulled(t, a, h, "app", time.Hour)
	for _, s := range []*Store{b, a, b, a} { // a refusal must not cost a store its own lock
		res, err := s.GC(t.Context(), GCPolicy{MaxAge: time.Minute})
		must.NoError(t, err)
		must.True(t, res.Busy)
		must.Eq(t, 2, layersIn(t, a))
	}
}

// TestRootGCBesidePullsAndMounts runs all three at once: each mount must find its files.
func TestRootGCBesidePullsAndMounts(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := open(t, Options{}, h)
	names := []string{"one", "two", "three"}
	refs := map[string]string{}
	for _, n := range names {
		refs[n] = pulled(t, s, h, n, 0).Ref
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := s.GC(t.Context(), GCPolicy{MaxAge: time.Nanosecond, MinIdle: 10 * time.Millisecond})
			must.NoError(t, err)
		}
	})
	var work sync.WaitGroup
	for _, n := range names {
		work.Go(func() {
			for range 10 {
				useOnce(t, s, n, refs[n])
			}
		})
	}
	work.Wait()
	cancel()
	wg.Wait()
}

// useOnce pulls and mounts; GC with so short an idle time may come between the two, and then both start over.
func useOnce(t *testing.T, s *Store, id, ref string) {
	t.Helper()
	for {
		img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
		must.NoError(t, err)
		root, err := s.Mount(t.Context(), MountRequest{ID: id, Image: img})
		if err != nil {
			must.ErrorIs(t, err, ErrNotPresent)
			continue
		}
		got, err := os.ReadFile(filepath.Join(root, "own"))
		must.NoError(t, err)
		must.Eq(t, id, string(got))
		shared, err := os.ReadFile(filepath.Join(root, "base"))
		must.NoError(t, err)
		must.Eq(t, "shared", string(shared))
		must.NoError(t, s.Unmount(id))
		return
	}
}
