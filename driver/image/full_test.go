package image

import (
	"archive/tar"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// TestRootPullOnAFullDisk lets the disk, then the inodes, run out at every step of a pull.
func TestRootPullOnAFullDisk(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", imageOf(t, v1.Config{},
		tarOf(t, dir("a"), file("a/big", halfNoise(t, 300<<10))), tarOf(t, file("b", halfNoise(t, 100<<10)), file("c", "x"))))
	failed := 0
	for step := range 40 {
		limit := fmt.Sprintf("size=%dk", 8+step*16)
		if step >= 20 {
			limit = fmt.Sprintf("nr_inodes=%d", 11+step-20)
		}
		t.Run(limit, func(t *testing.T) {
			at := smallDisk(t, limit)
			s, err := Open(at, Options{InsecureRegistries: []string{h.addr}, keepFrom: int64(1 + step%2<<30)}) // with and without what is kept
			if err != nil {
				must.ErrorIs(t, err, unix.ENOSPC)
				failed++
				return
			}
			defer func() { must.NoError(t, s.Close()) }()
			_, err = s.Pull(t.Context(), PullRequest{Ref: ref})
			if err != nil {
				failed++
				must.ErrorIs(t, err, unix.ENOSPC)
				must.ErrorContains(t, err, "free disk space")
				must.True(t, IsRecoverable(err))
				s.wg.Wait()
				tmp, err := os.ReadDir(s.path("tmp"))
				must.NoError(t, err)
				must.Eq(t, 0, len(tmp))
			}
			s.wg.Wait()
			must.Less(t, 2, len(kept(t, s))) // of the layer that the disk was full for, nothing
			images, err := os.ReadDir(s.path("images"))
			must.NoError(t, err)
			for _, e := range images { // recorded without its reference, but whole
				_, err = s.lookupDigest("x", "sha256:"+e.Name())
				must.NoError(t, err)
			}
			ids, err := s.Mounts()
			must.NoError(t, err)
			must.Eq(t, 0, len(ids))
		})
	}
	must.Greater(t, 10, failed)
	must.Less(t, 40, failed)
}

// halfNoise is n bytes that compress to about half of that: a pull of it can't tell beforehand that there is no room.
func halfNoise(t *testing.T, n int) string { return hex.EncodeToString([]byte(noise(t, n/2))) }

// TestRootFullDiskIsCleared has a disk that unused images fill when a task needs room. It counts tries, and is not parallel
// for that: a program that another test is just starting has all our files for a moment, also those deleted meanwhile, and
// room that comes back late is worth a try.
func TestRootFullDiskIsCleared(t *testing.T) {
	blobs := &counter{word: "/blobs/"}
	h := serve(t, blobs.wrap)
	fill := func(name, content string) string {
		return h.push(t, name+":v1", imageOf(t, v1.Config{User: name}, tarOf(t, file(name, content))))
	}
	old, next := fill("old", noise(t, 1<<20)), fill("next", noise(t, 1<<20))
	larger, many := fill("larger", halfNoise(t, 1200<<10)), h.push(t, "many:v1", imageOf(t, v1.Config{}, tarOf(t, manyFiles(60)...)))
	tooLarge, tooLargeLater := fill("huge", noise(t, 2<<20)), fill("later", halfNoise(t, 2200<<10))
	const mib = "size=1800k"
	for _, tc := range []struct {
		name, disk, ref string
		opts            Options
		mounted         bool
		idle            time.Duration
		words           []string // of the error; none if there is none
		downloads       int64    // of layers and configs, in all
	}{
		{"known beforehand", mib, next, Options{}, false, time.Hour, nil, 5},
		{"met while unpacking", mib, larger, Options{}, false, time.Hour, nil, 6},
		{"no more files", "nr_inodes=90", many, Options{}, false, time.Hour, nil, 6},
		{"in use", mib, next, Options{}, true, time.Hour, []string{"layers are 1.0 MiB", "KiB are missing", "after 0 unused images of 0 B were deleted", "state_dir"}, 3},
		{"just used", mib, next, Options{}, false, spared / 2, []string{"after 0 unused images"}, 3},
		{"kept by the operator", mib, next, Options{KeepUnused: true}, false, time.Hour, []string{"KiB are missing", "gc is disabled"}, 3},
		{"no room at all", mib, tooLarge, Options{}, false, time.Hour, []string{"layers are 2.0 MiB", "after 1 unused images of 1.0 MiB were deleted"}, 4},
		{"no room at all, met while unpacking", mib, tooLargeLater, Options{}, false, time.Hour, []string{"needs more than the 1.", "after 1 unused images of 1.0 MiB were deleted"}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openAt(t, smallDisk(t, tc.disk), tc.opts, h)
			blobs.n.Store(0)
			first := old
			if strings.Contains(tc.disk, "inodes") {
				first = h.push(t, "many-others:v1", imageOf(t, v1.Config{User: "x"}, tarOf(t, manyFiles(50)...)))
			}
			img, err := s.Pull(t.Context(), PullRequest{Ref: first})
			must.NoError(t, err)
			if tc.mounted {
				_, err = s.Mount(t.Context(), MountRequest{ID: "m", Image: img})
				must.NoError(t, err)
			}
			then := time.Now().Add(-tc.idle)
			must.NoError(t, os.Chtimes(s.path("images", hexOf(img.Digest)), then, then))

			wanted, err := s.Pull(t.Context(), PullRequest{Ref: tc.ref})
			must.Eq(t, tc.downloads, blobs.n.Load())
			if len(tc.words) > 0 {
				must.ErrorIs(t, err, unix.ENOSPC)
				must.True(t, IsRecoverable(err))
				for _, w := range append(tc.words, s.root, "free disk space") {
					must.ErrorContains(t, err, w)
				}
				return
			}
			must.NoError(t, err)
			_, err = s.lookupDigest(first, img.Digest)
			must.ErrorIs(t, err, ErrNotPresent)
			_, err = s.Mount(t.Context(), MountRequest{ID: "m", Image: wanted})
			must.NoError(t, err)
		})
	}
}

// TestRootFullDiskIsClearedForAll has several tenants meet a full disk at once.
func TestRootFullDiskIsClearedForAll(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	s := openAt(t, smallDisk(t, "size=4m"), Options{}, h)
	push := func(name string, content string) string {
		return h.push(t, name+":v1", imageOf(t, v1.Config{}, tarOf(t, file(name, content))))
	}
	img, err := s.Pull(t.Context(), PullRequest{Ref: push("old", noise(t, 3<<20))})
	must.NoError(t, err)
	then := time.Now().Add(-time.Hour)
	must.NoError(t, os.Chtimes(s.path("images", hexOf(img.Digest)), then, then))
	var refs []string
	for _, name := range []string{"a", "b", "c"} {
		refs = append(refs, push(name, halfNoise(t, 1<<20)))
	}
	var wg sync.WaitGroup
	errs := make([]error, len(refs))
	for i, ref := range refs {
		wg.Go(func() { _, errs[i] = s.Pull(t.Context(), PullRequest{Ref: ref, Tenant: ref}) })
	}
	wg.Wait()
	must.NoError(t, errors.Join(errs...))
}

// TestRootMountOnAFullDisk mounts an image that is there on a disk that others have filled to the last file.
func TestRootMountOnAFullDisk(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	at := smallDisk(t, "nr_inodes=120")
	s := openAt(t, at, Options{}, h)
	app := pulled(t, s, h, "app", 0)
	old, err := s.Pull(t.Context(), PullRequest{Ref: h.push(t, "old:v1", imageOf(t, v1.Config{}, tarOf(t, manyFiles(30)...)))})
	must.NoError(t, err)
	s.wg.Wait() // what is synced gets a mark, which is a file
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(at, fmt.Sprint(i)), nil, 0o600)
	}
	must.ErrorIs(t, err, unix.ENOSPC)
	request := MountRequest{ID: "m", Image: app}
	must.NoError(t, os.Chtimes(s.path("images", hexOf(old.Digest)), time.Now(), time.Now()), must.Sprint("it was used just now"))
	_, err = s.Mount(t.Context(), request)
	must.ErrorIs(t, err, unix.ENOSPC)
	must.ErrorContains(t, err, "after 0 unused images")
	must.True(t, IsRecoverable(err))
	then := time.Now().Add(-time.Hour)
	must.NoError(t, os.Chtimes(s.path("images", hexOf(old.Digest)), then, then))
	_, err = s.Mount(t.Context(), request)
	must.NoError(t, err)
}

func manyFiles(n int) []tar.Header {
	var all []tar.Header
	for i := range n {
		all = append(all, file(fmt.Sprint(i), "x"))
	}
	return all
}

// smallDisk mounts one until the test ends. It is a tmpfs, whose files' owners Linux can't shift before 6.3: what is
// mounted from it has no IDs of its own.
func smallDisk(t *testing.T, limit string) string {
	t.Helper()
	at := t.TempDir()
	must.NoError(t, unix.Mount("none", at, "tmpfs", 0, limit))
	t.Cleanup(func() {
		// A program that another test is just starting has all our files for a moment.
		var err error
		must.Wait(t, waitFor(func() bool { err = unix.Unmount(at, 0); return !errors.Is(err, unix.EBUSY) }))
		must.NoError(t, err)
	})
	return at
}
