package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ids() Range { return Range{UID: 1879048192, GID: 1879113728, Count: 65536} }

func TestRootUserns(t *testing.T) {
	f, err := Userns(ids())
	must.NoError(t, err)
	defer func() { must.NoError(t, f.Close()) }()
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	must.NoError(t, err)
	must.Eq(t, unix.CLONE_NEWUSER, kind)
	for _, bad := range []Range{{}, {UID: 1}, {UID: 1, GID: 1}, {UID: 1, Count: 1}} {
		_, err := Userns(bad)
		must.ErrorContains(t, err, "incomplete id range")
	}
}

// TestRootDiskWithoutRoom has a writable layer's disk made where there is no room: the store then makes some and tries again.
func TestRootDiskWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(dir, 0)) })
	err := MountDisk(t.Context(), dir, filepath.Join(dir, "disk"), 64<<20)
	must.ErrorIs(t, err, unix.ENOSPC)
	must.ErrorContains(t, err, "mke2fs")
}

// TestRootBothWaysToMount runs the way of old kernels on this one, too.
func TestRootBothWaysToMount(t *testing.T) {
	for name, way := range map[string]func(*Overlay, int) error{
		"descriptors": func(o *Overlay, tree int) error {
			lower, err := openAll(tree, o.Layers)
			must.NoError(t, err)
			defer lower.close()
			return o.mountByFD(lower)
		},
		"paths": func(o *Overlay, tree int) error { return o.mountByPath(tree) },
	} {
		for _, r := range []Range{ids(), {}} {
			dir := t.TempDir()
			o := &Overlay{
				LayersDir: filepath.Join(dir, "layers"), Layers: []string{"top/fs", "bottom/fs"}, IDs: r,
				Upper: filepath.Join(dir, "up,per:1"), Work: filepath.Join(dir, "work"),
				Target: filepath.Join(dir, "target"), Scratch: filepath.Join(dir, "scratch"),
			}
			for _, d := range []string{"layers/top/fs", "layers/bottom/fs/sub", "up,per:1", "work", "target", "scratch"} {
				must.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
			}
			must.NoError(t, os.WriteFile(filepath.Join(dir, "layers/bottom/fs/f"), []byte("bottom"), 0o644))
			must.NoError(t, os.WriteFile(filepath.Join(dir, "layers/top/fs/f"), []byte("top"), 0o644))
			tree, err := o.lowerTree()
			must.NoError(t, err)
			err = way(o, tree)
			must.NoError(t, unix.Close(tree))
			if unsupported(err) {
				must.True(t, pathsOnly(t), must.Sprint(err))
				err = o.Mount()
			}
			must.NoError(t, err, must.Sprint(name))
			got, err := os.ReadFile(filepath.Join(o.Target, "f"))
			must.NoError(t, err)
			must.Eq(t, "top", string(got))
			var st syscall.Stat_t
			must.NoError(t, syscall.Stat(filepath.Join(o.Target, "sub"), &st))
			must.Eq(t, r.UID, st.Uid)
			must.Eq(t, r.GID, st.Gid)
			at, err := Mounted(dir)
			must.NoError(t, err)
			must.Eq(t, []string{o.Target}, at)
			must.NoError(t, UnmountAll(dir))
			left, err := os.ReadDir(o.Scratch)
			must.NoError(t, err)
			must.Eq(t, 0, len(left))
		}
	}
}

// pathsOnly tells whether the kernel's overlayfs takes no descriptors yet, and does not say which option is wrong.
func pathsOnly(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must.NoError(t, err)
	var major, minor int
	_, err = fmt.Sscanf(string(text), "%d.%d", &major, &minor)
	must.NoError(t, err)
	return major < 6 || major == 6 && minor < 13
}

func TestRootMountSaysWhatTheKernelSays(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "layers/l/fs"), 0o755))
	o := &Overlay{LayersDir: filepath.Join(dir, "layers"), Layers: []string{"l/fs"}, Upper: dir + "/none", Work: dir + "/none", Target: dir}
	want := "option upperdir"
	if pathsOnly(t) {
		want = "cannot mount the overlay: mount: no such file or directory"
	}
	must.ErrorContains(t, o.Mount(), want)
	o.Layers = []string{"../../etc"}
	must.ErrorContains(t, o.Mount(), "cannot open layer")
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`/plain`: "/plain", `/a\040b`: "/a b", `/tab\011`: "/tab\t", `/back\134slash`: `/back\slash`, `/end\04`: `/end\04`, `/odd\999`: `/odd\999`,
	} {
		must.Eq(t, want, unescape(in))
	}
	must.Eq(t, `a\,b\:c\\d`, escape(`a,b:c\d`))
}

func TestRootMountedFindsOddNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space")
	must.NoError(t, os.Mkdir(dir, 0o755))
	must.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "size=4k"))
	at, err := Mounted(filepath.Dir(dir))
	must.NoError(t, err)
	must.Eq(t, []string{dir}, at)
	must.NoError(t, UnmountAll(dir))
	must.False(t, strings.Contains(strings.Join(at, ""), `\`))
}

func BenchmarkRootUserns(b *testing.B) {
	for b.Loop() {
		f, err := Userns(ids())
		must.NoError(b, err)
		must.NoError(b, f.Close())
	}
}
