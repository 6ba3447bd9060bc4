package image

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

const base = 1879048192

func TestRootMountMapsOwnersAndIsolatesWrites(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", simple(t))
	s := open(t, Options{}, h)
	img, err := s.Pull(within(t, 10*time.Second), PullRequest{Ref: ref})
	must.NoError(t, err)

	roots := map[string]string{}
	for i, id := range []string{"one", "two"} {
		start := uint32(base + i*65536)
		root, err := s.Mount(t.Context(), MountRequest{ID: id, Image: img, HostUID: start, HostGID: start, IDCount: 65536})
		must.NoError(t, err)
		roots[id] = root
		for name, want := range map[string]string{"srv/a": "one", "srv/b": "two"} {
			got, err := os.ReadFile(filepath.Join(root, name))
			must.NoError(t, err)
			must.Eq(t, want, string(got))
		}
		var st syscall.Stat_t
		must.NoError(t, syscall.Stat(filepath.Join(root, "srv/a"), &st))
		must.Eq(t, start, st.Uid)
		must.Eq(t, start, st.Gid)
		_, err = os.Lstat(filepath.Join(root, "etc/keep"))
		must.ErrorIs(t, err, os.ErrNotExist) // whited out
	}
	must.NoError(t, os.WriteFile(filepath.Join(roots["one"], "srv/a"), []byte("mine"), 0o644))
	got, err := os.ReadFile(filepath.Join(roots["two"], "srv/a"))
	must.NoError(t, err)
	must.Eq(t, "one", string(got))

	ids, err := s.Mounts()
	must.NoError(t, err)
	must.Eq(t, []string{"one", "two"}, ids)
	for id, root := range roots {
		must.NoError(t, s.Unmount(id))
		must.NoError(t, s.Unmount(id))
		_, err = os.Stat(root)
		must.ErrorIs(t, err, os.ErrNotExist)
		_, err = os.Stat(s.path("tasks", id))
		must.ErrorIs(t, err, os.ErrNotExist)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	must.False(t, strings.Contains(string(mounts), s.root))
}
