package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

const base = 1879048192

// pulledImage is the usual image in a store.
func pulledImage(t *testing.T) (*Store, *Image) {
	t.Helper()
	h := serve(t, nil)
	ref := h.push(t, "app:v1", simple(t))
	s := open(t, Options{}, h)
	img, err := s.Pull(within(t), PullRequest{Ref: ref})
	must.NoError(t, err)
	return s, img
}

func request(id string, img *Image) MountRequest {
	return MountRequest{ID: id, Image: img, HostUID: base, HostGID: base, IDCount: 65536}
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	must.NoError(t, syscall.Lstat(path, &st))
	return st.Uid, st.Gid
}

func TestRootMountMapsOwnersAndIsolatesWrites(t *testing.T) {
	s, img := pulledImage(t)
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
		for _, name := range []string{"", "srv", "srv/a"} {
			uid, gid := owner(t, filepath.Join(root, name))
			must.Eq(t, start, uid)
			must.Eq(t, start, gid)
		}
		_, err = os.Lstat(filepath.Join(root, "etc/keep"))
		must.ErrorIs(t, err, os.ErrNotExist) // whited out
	}
	must.NoError(t, os.WriteFile(filepath.Join(roots["one"], "srv/a"), []byte("mine"), 0o644))
	got, err := os.ReadFile(filepath.Join(roots["two"], "srv/a"))
	must.NoError(t, err)
	must.Eq(t, "one", string(got))
	uid, _ := owner(t, s.path("tasks/one/upper/srv/a"))
	must.Eq(t, base, uid, must.Sprint("the task's copy must not belong to the host's root"))

	ids, err := s.Mounts()
	must.NoError(t, err)
	must.Eq(t, []string{"one", "two"}, ids)
	for id := range roots {
		must.NoError(t, s.Unmount(id))
		must.NoError(t, s.Unmount(id))
		assertGone(t, s, id)
	}
}

func assertGone(t *testing.T, s *Store, id string) {
	t.Helper()
	for _, path := range []string{s.rootfsDir(id), s.path("tasks", id)} {
		_, err := os.Stat(path)
		must.ErrorIs(t, err, os.ErrNotExist)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	must.StrNotContains(t, string(mounts), s.rootfsDir(id))
	must.StrNotContains(t, string(mounts), s.path("tasks", id))
}

// TestRootMountServesTheMappedRoot is what a task's first process may do, and what not.
func TestRootMountServesTheMappedRoot(t *testing.T) {
	s, img := pulledImage(t)
	root, err := s.Mount(t.Context(), request("m", img))
	must.NoError(t, err)
	for _, tc := range []struct {
		script string
		ok     bool
	}{
		{"echo new > srv/new && chown 1000:1000 srv/new && mkdir d && mv srv/a d/ && rm srv/b", true},
		{"mknod dev0 c 1 3", false},
		{"ls " + s.path("layers"), false},
		{"ls " + s.path("tasks/m/upper"), false},
		{"ls " + s.rootfsDir(""), false},
	} {
		cmd := exec.Command("/bin/sh", "-c", "cd "+root+" && "+tc.script)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: base, Size: 65536}},
			GidMappings: []syscall.SysProcIDMap{{HostID: base, Size: 65536}},
			Credential:  &syscall.Credential{},
		}
		out, err := cmd.CombinedOutput()
		must.Eq(t, tc.ok, err == nil, must.Sprintf("%s: %v: %s", tc.script, err, out))
	}
	uid, _ := owner(t, filepath.Join(root, "srv/new"))
	must.Eq(t, base+1000, uid)
}

func TestRootMountWithoutUserNamespace(t *testing.T) {
	s, img := pulledImage(t)
	root, err := s.Mount(t.Context(), MountRequest{ID: "host", Image: img})
	must.NoError(t, err)
	uid, _ := owner(t, filepath.Join(root, "srv/a"))
	must.Eq(t, 0, uid)
}

func TestRootMountIsNosuidAndNodev(t *testing.T) {
	s, img := pulledImage(t)
	root, err := s.Mount(t.Context(), request("m", img))
	must.NoError(t, err)
	var st unix.Statfs_t
	must.NoError(t, unix.Statfs(root, &st))
	must.Eq(t, unix.ST_NOSUID|unix.ST_NODEV, st.Flags&(unix.ST_NOSUID|unix.ST_NODEV))
}

func TestRootMountTargetsAndReadOnly(t *testing.T) {
	h := serve(t, nil)
	ref := h.push(t, "app:v1", imageOf(t, v1.Config{}, tarOf(t, dir("etc"), link("var", "/etc"), link("out", "../../../../tmp"))))
	s := open(t, Options{}, h)
	img, err := s.Pull(t.Context(), PullRequest{Ref: ref})
	must.NoError(t, err)
	r := request("m", img)
	r.ReadOnly, r.Targets = true, []string{"/dev", "/usr/local/nvidia", "/etc", "/"}
	root, err := s.Mount(t.Context(), r)
	must.NoError(t, err)
	uid, _ := owner(t, filepath.Join(root, "usr/local/nvidia"))
	must.Eq(t, base, uid)
	must.ErrorIs(t, os.Mkdir(filepath.Join(root, "x"), 0o755), unix.EROFS)
	for i, bad := range []string{"/out/pangaea-escape", "/../../x/../../../tmp/pangaea-escape", "relative"} {
		r := request(fmt.Sprint("bad-", i), img)
		r.Targets = []string{bad}
		_, err = s.Mount(t.Context(), r)
		if i != 1 { // cleaned, this one stays inside
			must.ErrorContains(t, err, "mount point")
			assertGone(t, s, r.ID)
		}
		_, err = os.Stat("/tmp/pangaea-escape")
		must.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestRootMountBoundsTheWritableLayer(t *testing.T) {
	s, img := pulledImage(t)
	r := request("disk", img)
	r.DiskBytes = 16 << 20
	root, err := s.Mount(t.Context(), r)
	must.NoError(t, err)
	err = os.WriteFile(filepath.Join(root, "fits"), make([]byte, 8<<20), 0o644)
	must.NoError(t, err)
	err = os.WriteFile(filepath.Join(root, "bursts"), make([]byte, 16<<20), 0o644)
	must.ErrorIs(t, err, unix.ENOSPC)
	must.NoError(t, s.Unmount("disk"))
	assertGone(t, s, "disk")
}

func TestRootMountRefusals(t *testing.T) {
	s, img := pulledImage(t)
	_, err := s.Mount(t.Context(), request("taken", img))
	must.NoError(t, err)
	gone := *img
	gone.Layers = []string{"sha256:" + strings.Repeat("0", 64)}
	tricky := *img
	tricky.Layers = []string{"sha256:../../../../../../etc"}
	for _, tc := range []struct {
		r     MountRequest
		words string
	}{
		{request("taken", img), "already has a root file system"},
		{request("", img), "task id"},
		{request("../x", img), "task id"},
		{request("UPPER", img), "task id"},
		{request(strings.Repeat("x", 129), img), "task id"},
		{request("x", nil), "no image"},
		{request("x", &gone), "pull it again"},
		{request("x", &tricky), "pull it again"},
		{MountRequest{ID: "x", Image: img, HostUID: base}, "incomplete id range"},
		{MountRequest{ID: "x", Image: img, HostUID: base, HostGID: base}, "incomplete id range"},
		{MountRequest{ID: "x", Image: img, DiskBytes: -1}, "negative"},
	} {
		_, err := s.Mount(t.Context(), tc.r)
		must.ErrorContains(t, err, tc.words)
	}
	ids, err := s.Mounts()
	must.NoError(t, err)
	must.Eq(t, []string{"taken"}, ids)
	must.ErrorContains(t, s.Unmount("../x"), "task id")
	must.NoError(t, s.Unmount("nobody"))
}

// TestRootUnmountSparesWhatIsMountedInside has the host's files bound deep in a task's root: a removal that
// walked in would delete them.
func TestRootUnmountSparesWhatIsMountedInside(t *testing.T) {
	s, img := pulledImage(t)
	root, err := s.Mount(t.Context(), request("m", img))
	must.NoError(t, err)
	precious := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(precious, "file"), []byte("keep"), 0o600))
	for _, at := range []string{filepath.Join(root, "srv"), s.path("tasks/m/upper"), s.path("tasks/m/work")} {
		must.NoError(t, unix.Mount(precious, at, "", unix.MS_BIND, ""))
		must.NoError(t, unix.Mount(precious, at, "", unix.MS_BIND, "")) // and once more on top
	}
	busy, err := os.Open(filepath.Join(root, "srv/file"))
	must.NoError(t, err)
	defer func() { _ = busy.Close() }()
	must.NoError(t, s.Unmount("m"))
	assertGone(t, s, "m")
	got, err := os.ReadFile(filepath.Join(precious, "file"))
	must.NoError(t, err)
	must.Eq(t, "keep", string(got))
}

func TestRootMountOfManyLayers(t *testing.T) {
	var layers [][]byte
	for i := range 200 {
		layers = append(layers, tarOf(t, file(fmt.Sprintf("f%d", i), "x"), file("top", fmt.Sprint(i))))
	}
	h := serve(t, nil)
	ref := h.push(t, "app:many", imageOf(t, v1.Config{}, layers...))
	s := open(t, Options{}, h)
	img, err := s.Pull(within(t), PullRequest{Ref: ref})
	must.NoError(t, err)
	root, err := s.Mount(t.Context(), request("m", img))
	must.NoError(t, err)
	top, err := os.ReadFile(filepath.Join(root, "top"))
	must.NoError(t, err)
	must.Eq(t, "199", string(top))
	entries, err := os.ReadDir(root)
	must.NoError(t, err)
	must.Eq(t, 201, len(entries))
}

func TestRootMountLeavesNothingOpen(t *testing.T) {
	s, img := pulledImage(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must.NoError(t, err)
		return len(entries)
	}
	run := func() error {
		_, err := s.Mount(t.Context(), request("m", img))
		return errors.Join(err, s.Unmount("m"))
	}
	must.NoError(t, run())
	s.wg.Wait() // for the layers' sync
	before := count()
	for range 20 {
		must.NoError(t, run())
	}
	must.LessEq(t, before, count()) // idle connections to the registry may go
}

// Everybody finds a mount's path in /proc/mounts. The host's other users, and other tasks, must not get in.
func TestRootMountIsForItsTaskAlone(t *testing.T) {
	s, img := pulledImage(t)
	mapped, err := s.Mount(t.Context(), request("mapped", img))
	must.NoError(t, err)
	hosts, err := s.Mount(t.Context(), MountRequest{ID: "hosts", Image: img})
	must.NoError(t, err)
	cases := []struct {
		name, root string
		uid        uint32
		want       string
	}{
		{"the task's root", mapped, base, "one"},
		{"a user of the host", mapped, 65534, ""},
		{"another task's root", mapped, base + 65536, ""},
		{"the host's root", hosts, 0, "one"},
		{"a user of the host, without a user namespace", hosts, 65534, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cat := exec.CommandContext(t.Context(), "/bin/cat", filepath.Join(c.root, "srv/a"))
			cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
			got, err := cat.Output()
			must.Eq(t, c.want, string(got))
			must.Eq(t, c.want == "", err != nil)
		})
	}
	for _, id := range []string{"mapped", "hosts"} {
		must.NoError(t, s.Unmount(id))
	}
}
