package image

import (
	"fmt"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// TestRootPullOnAFullDisk lets the disk, then the inodes, run out at every step of a pull.
func TestRootPullOnAFullDisk(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", imageOf(t, v1.Config{},
		tarOf(t, dir("a"), file("a/big", noise(t, 300<<10))), tarOf(t, file("b", noise(t, 100<<10)), file("c", "x"))))
	failed := 0
	for step := range 40 {
		limit := fmt.Sprintf("size=%dk", 8+step*16)
		if step >= 20 {
			limit = fmt.Sprintf("nr_inodes=%d", 11+step-20)
		}
		t.Run(limit, func(t *testing.T) {
			at := t.TempDir()
			must.NoError(t, unix.Mount("none", at, "tmpfs", 0, limit))
			t.Cleanup(func() { must.NoError(t, unix.Unmount(at, 0)) })
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
