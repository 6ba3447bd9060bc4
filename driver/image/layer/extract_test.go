package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// e makes an entry; a regular file's content travels in Linkname until pack writes it.
func e(kind byte, name, link string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: 0o755, ModTime: time.Unix(1e9, 0)}
}

func with(h tar.Header, change func(*tar.Header)) tar.Header {
	change(&h)
	return h
}

const (
	reg, dir, sym, hard = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
)

func pack(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		body := h.Linkname
		if h.Typeflag == reg {
			h.Size, h.Linkname = int64(len(body)), ""
		}
		must.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == reg {
			_, err := io.WriteString(w, body)
			must.NoError(t, err)
		}
	}
	must.NoError(t, w.Close())
	return buf.Bytes()
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	must.NoError(t, err)
	must.NoError(t, w.Close())
	return buf.Bytes()
}

func zs(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must.NoError(t, err)
	return w.EncodeAll(b, nil)
}

// unpack extracts a plain archive into a fresh directory that has a sibling to escape to.
func unpack(t testing.TB, body []byte, budget *Budget) (string, error) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "layer")
	must.NoError(t, os.Mkdir(root, 0o755))
	want := Want{Digest: sum(body), Size: int64(len(body)), DiffID: sum(body)}
	_, err := Unpack(t.Context(), io.NopCloser(bytes.NewReader(body)), root, want, budget)
	return root, err
}

// list renders a tree, one line per entry: kind, mode, owner, path, content or target, xattrs.
func list(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	must.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		must.NoError(t, unix.Lstat(path, &st))
		rel, _ := filepath.Rel(root, path)
		line := map[uint32]string{
			unix.S_IFREG: "file", unix.S_IFDIR: "dir", unix.S_IFLNK: "link", unix.S_IFCHR: "whiteout", unix.S_IFIFO: "fifo",
		}[st.Mode&unix.S_IFMT]
		line += fmt.Sprintf(" %o %d:%d %s", st.Mode&0o7777, st.Uid, st.Gid, rel)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			must.NoError(t, err)
			line += " = " + string(b)
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			must.NoError(t, err)
			line += " > " + to
		case unix.S_IFCHR:
			must.Eq(t, 0, st.Rdev)
		}
		buf := make([]byte, 1024)
		n, err := unix.Llistxattr(path, buf)
		must.NoError(t, err)
		if n > 0 {
			line += " [" + strings.TrimSuffix(strings.ReplaceAll(string(buf[:n]), "\x00", " "), " ") + "]"
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func TestRootExtractBuildsTheTree(t *testing.T) {
	xattr := func(kv ...string) func(*tar.Header) {
		return func(h *tar.Header) {
			h.PAXRecords = map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				h.PAXRecords[xattrPrefix+kv[i]] = kv[i+1]
			}
		}
	}
	for _, tc := range []struct {
		name    string
		entries []tar.Header
		want    []string
	}{
		{
			"plain tree",
			[]tar.Header{
				e(dir, "./", ""), e(dir, "a/", ""), with(e(reg, "a/b", "hi"), func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 5, 6, 0o640 }),
				e(sym, "a/l", "/etc/passwd"), e(hard, "a/h", "a/b"), e(tar.TypeFifo, "p", ""),
			},
			[]string{"dir 755 0:0 a", "file 640 5:6 a/b = hi", "file 640 5:6 a/h = hi", "link 777 0:0 a/l > /etc/passwd", "fifo 755 0:0 p"},
		},
		{"parents that nobody lists", []tar.Header{e(reg, "x/y/z", "1")}, []string{"dir 755 0:0 x", "dir 755 0:0 x/y", "file 755 0:0 x/y/z = 1"}},
		{"absolute names are the layer's", []tar.Header{e(reg, "/abs", "1"), e(hard, "/h", "/abs")}, []string{"file 755 0:0 abs = 1", "file 755 0:0 h = 1"}},
		{"last one wins", []tar.Header{e(reg, "f", "1"), e(reg, "f", "22"), e(sym, "f", "x"), e(reg, "f", "3")}, []string{"file 755 0:0 f = 3"}},
		{"file replaces directory", []tar.Header{e(reg, "d/x", "1"), e(reg, "d", "f")}, []string{"file 755 0:0 d = f"}},
		{"directory replaces file", []tar.Header{e(reg, "d", "f"), e(dir, "d", ""), e(reg, "d/x", "1")}, []string{"dir 755 0:0 d", "file 755 0:0 d/x = 1"}},
		{"directory twice keeps its files", []tar.Header{e(reg, "d/x", "1"), with(e(dir, "d", ""), func(h *tar.Header) { h.Mode = 0o700 })}, []string{"dir 700 0:0 d", "file 755 0:0 d/x = 1"}},
		{"set-user-ID stays", []tar.Header{with(e(reg, "su", ""), func(h *tar.Header) { h.Mode = 0o4755 })}, []string{"file 4755 0:0 su = "}},
		{
			"links inside are followed as in a chroot",
			[]tar.Header{e(dir, "usr/lib", ""), e(sym, "lib", "/usr/lib"), e(reg, "lib/so", "1")},
			[]string{"link 777 0:0 lib > /usr/lib", "dir 755 0:0 usr", "dir 755 0:0 usr/lib", "file 755 0:0 usr/lib/so = 1"},
		},
		{"devices are left out", []tar.Header{e(tar.TypeChar, "c", ""), e(tar.TypeBlock, "b", ""), e(reg, "f", "")}, []string{"file 755 0:0 f = "}},
		{
			"foreign attributes are left out",
			[]tar.Header{with(e(reg, "f", ""), xattr("user.ok", "1", "security.capability", "x", "trusted.overlay.opaque", "y", "user.overlay.opaque", "y"))},
			[]string{"file 755 0:0 f =  [user.ok]"},
		},
		{"whiteout", []tar.Header{e(reg, "d/.wh.gone", "")}, []string{"dir 755 0:0 d", "whiteout 0 0:0 d/gone"}},
		{"opaque", []tar.Header{e(dir, "d", ""), e(reg, "d/.wh..wh..opq", ""), e(reg, "d/n", "1")}, []string{"dir 755 0:0 d [trusted.overlay.opaque]", "file 755 0:0 d/n = 1"}},
		{"whiteout, then a directory", []tar.Header{e(reg, ".wh.d", ""), e(dir, "d", "")}, []string{"dir 755 0:0 d [trusted.overlay.opaque]"}},
		{"directory, then its whiteout", []tar.Header{e(reg, "d/x", "1"), e(reg, ".wh.d", "")}, []string{"dir 755 0:0 d [trusted.overlay.opaque]", "file 755 0:0 d/x = 1"}},
		{"file and its whiteout", []tar.Header{e(reg, "f", "1"), e(reg, ".wh.f", "")}, []string{"file 755 0:0 f = 1"}},
		{"whiteout, then a file", []tar.Header{e(reg, ".wh.f", ""), e(reg, "f", "1")}, []string{"file 755 0:0 f = 1"}},
		{"aufs leftovers", []tar.Header{e(dir, ".wh..wh.plnk", ""), e(reg, ".wh..wh.aufs", "")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, err := unpack(t, pack(t, tc.entries...), NewBudget(1<<20, 100))
			must.NoError(t, err)
			must.Eq(t, tc.want, list(t, root))
		})
	}
}

func TestRootExtractKeepsTimes(t *testing.T) {
	root, err := unpack(t, pack(t, e(dir, "d", ""), e(reg, "d/f", "1"), e(sym, "d/s", "f")), NewBudget(1<<20, 100))
	must.NoError(t, err)
	for _, name := range []string{"d", "d/f", "d/s"} {
		st, err := os.Lstat(filepath.Join(root, name))
		must.NoError(t, err)
		must.Eq(t, 1e9, st.ModTime().Unix(), must.Sprint(name))
	}
}

// TestRootExtractRefusesAttacks holds every trick known to have led out of some extractor. Whatever the
// outcome, nothing may appear beside the layer's directory.
func TestRootExtractRefusesAttacks(t *testing.T) {
	long := strings.Repeat("d/", maxDepth+1)
	for _, tc := range []struct {
		name    string
		entries []tar.Header
		want    error // nil: harmless, and it must stay inside
	}{
		{"dot dot", []tar.Header{e(reg, "../out", "x")}, ErrHostile},
		{"dot dot inside", []tar.Header{e(reg, "a/../../out", "x")}, ErrHostile},
		{"dot dot directory", []tar.Header{e(dir, "../out", "")}, ErrHostile},
		{"link up, then through it", []tar.Header{e(sym, "up", "../.."), e(reg, "up/out", "x")}, nil},
		{"absolute link, then through it", []tar.Header{e(sym, "abs", "/tmp"), e(reg, "abs/pangaea-escape", "x")}, ErrHostile},
		{"link to itself", []tar.Header{e(sym, "loop", "loop"), e(reg, "loop/x", "x")}, ErrHostile},
		{"chain of links", []tar.Header{e(sym, "a", "b"), e(sym, "b", "../../../.."), e(reg, "a/out", "x")}, nil},
		{"write through a link", []tar.Header{e(sym, "f", "../out"), e(reg, "f", "x")}, nil},
		{"directory through a link", []tar.Header{e(sym, "d", ".."), e(dir, "d", ""), e(reg, "d/out", "x")}, nil},
		{"link into proc", []tar.Header{e(sym, "p", "/proc/self/root/tmp"), e(reg, "p/pangaea-escape", "x")}, ErrHostile},
		{"hard link out", []tar.Header{e(hard, "h", "../secret")}, ErrHostile},
		{"hard link to an absolute path", []tar.Header{e(hard, "h", "/etc/passwd")}, ErrHostile},
		{"hard link through a link", []tar.Header{e(sym, "up", ".."), e(hard, "h", "up/secret")}, ErrHostile},
		{"hard link to a link, then write", []tar.Header{e(sym, "s", "../secret"), e(hard, "h", "s"), e(reg, "h", "x")}, nil},
		{"hard link to a directory", []tar.Header{e(dir, "d", ""), e(hard, "h", "d")}, ErrHostile},
		{"hard link to a whiteout", []tar.Header{e(reg, ".wh.x", ""), e(hard, "h", "x")}, ErrHostile},
		{"hard link to the root", []tar.Header{e(hard, "h", "/")}, ErrHostile},
		{"whiteout of dot dot", []tar.Header{e(reg, ".wh...", "")}, ErrHostile},
		{"whiteout of dot", []tar.Header{e(reg, ".wh..", "")}, ErrHostile},
		{"whiteout of nothing", []tar.Header{e(reg, ".wh.", "")}, ErrHostile},
		{"below a whiteout", []tar.Header{e(reg, ".wh.d/x", "")}, ErrHostile},
		{"whiteout through a link", []tar.Header{e(sym, "up", ".."), e(reg, "up/.wh.secret", "")}, nil},
		{"opaque through a link", []tar.Header{e(sym, "up", ".."), e(reg, "up/.wh..wh..opq", "")}, nil},
		{"root replaced by a link", []tar.Header{e(sym, "./", "/tmp"), e(reg, "pangaea-escape", "x")}, ErrHostile},
		{"file below a file", []tar.Header{e(reg, "f", "1"), e(reg, "f/x", "2")}, ErrHostile},
		{"endless name", []tar.Header{e(reg, strings.Repeat("n", 300), "x")}, ErrHostile},
		{"endless path", []tar.Header{e(reg, strings.Repeat("abcdefgh/", 600)+"x", "x")}, ErrHostile},
		{"too deep", []tar.Header{e(reg, long+"x", "x")}, ErrHostile},
		{"owner out of range", []tar.Header{with(e(reg, "f", ""), func(h *tar.Header) { h.Uid = 1 << 32 })}, ErrHostile},
		{"negative owner", []tar.Header{with(e(reg, "f", ""), func(h *tar.Header) { h.Gid = -2; h.Format = tar.FormatGNU })}, ErrHostile},
		{"link to nothing", []tar.Header{e(sym, "s", "")}, ErrHostile},
		{"too many files", []tar.Header{e(reg, "a", ""), e(reg, "b", ""), e(reg, "c", ""), e(reg, "d", ""), e(reg, "e", "")}, ErrTooLarge},
		{"too many bytes", []tar.Header{e(reg, "a", strings.Repeat("x", 600)), e(reg, "b", strings.Repeat("x", 600))}, ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, err := os.ReadDir("/tmp")
			must.NoError(t, err)
			root, err := unpack(t, pack(t, tc.entries...), NewBudget(1000, 4))
			if tc.want != nil {
				must.ErrorIs(t, err, tc.want)
			} else {
				must.NoError(t, err)
			}
			beside, err := os.ReadDir(filepath.Dir(root))
			must.NoError(t, err)
			must.Eq(t, 1, len(beside))
			for _, path := range []string{"/tmp/pangaea-escape", "/out", "/secret"} {
				_, err = os.Lstat(path)
				must.ErrorIs(t, err, os.ErrNotExist, must.Sprintf("%d in /tmp before", len(before)))
			}
		})
	}
}

func TestRootUnpackChecksDigests(t *testing.T) {
	body := pack(t, e(reg, "f", strings.Repeat("content ", 1000)))
	zipped, zst := gz(t, body), zs(t, body)
	good := Want{Digest: sum(zipped), Size: int64(len(zipped)), DiffID: sum(body)}
	edit := func(f func(*Want)) Want { w := good; f(&w); return w }
	tail := append(bytes.Clone(zipped), 0xde, 0xad)
	flipped := bytes.Clone(zipped)
	flipped[len(flipped)/2] ^= 1
	bomb := gz(t, make([]byte, ratioFloor+(1<<20)))
	for _, tc := range []struct {
		name   string
		stream []byte
		want   Want
		err    error
	}{
		{"gzip", zipped, good, nil},
		{"zstd", zst, Want{Digest: sum(zst), Size: int64(len(zst)), DiffID: sum(body)}, nil},
		{"plain", body, Want{Digest: sum(body), Size: int64(len(body)), DiffID: sum(body)}, nil},
		{"unknown size", zipped, Want{Size: -1, DiffID: sum(body)}, nil},
		{"wrong digest", zipped, edit(func(w *Want) { w.Digest = sum(nil) }), ErrCorrupt},
		{"wrong diff ID", zipped, edit(func(w *Want) { w.DiffID = sum(nil) }), ErrCorrupt},
		{"shorter than promised", zipped, edit(func(w *Want) { w.Size++ }), ErrCorrupt},
		{"longer than promised", zipped, edit(func(w *Want) { w.Size-- }), ErrTooLarge},
		{"cut off", zipped[:len(zipped)/2], good, ErrCorrupt},
		{"bit flipped", flipped, good, ErrCorrupt},
		{"data behind the end", tail, Want{Digest: sum(tail), Size: int64(len(tail)), DiffID: sum(body)}, ErrCorrupt},
		{"empty", nil, Want{Digest: sum(nil), Size: 0, DiffID: sum(body)}, ErrCorrupt},
		{"no archive", []byte("hello"), Want{Digest: sum([]byte("hello")), Size: 5, DiffID: sum([]byte("hello"))}, ErrCorrupt},
		{"ratio bomb", bomb, Want{Digest: sum(bomb), Size: int64(len(bomb)), DiffID: sum(nil)}, ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Unpack(t.Context(), io.NopCloser(bytes.NewReader(tc.stream)), t.TempDir(), tc.want, NewBudget(1<<30, 100))
			must.ErrorIs(t, err, tc.err)
			must.Eq(t, tc.err != nil, IsContent(err))
		})
	}
}

// TestRootUnpackBoundsMemory has zstd frames and tar headers ask for more than there is.
func TestRootUnpackBoundsMemory(t *testing.T) {
	frame := func(header ...byte) []byte { return append([]byte{0x28, 0xb5, 0x2f, 0xfd}, header...) }
	for name, stream := range map[string][]byte{
		"window of 2 TiB":        frame(0x00, 0x1f<<3, 0x01, 0x00, 0x00),
		"window of 256 MiB":      frame(0x00, 18<<3, 0x01, 0x00, 0x00),
		"one segment of 4 EiB":   frame(0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0x00, 0x00),
		"no end":                 frame(0x00, 17<<3),
		"a header of 8 MiB":      gz(t, special(t, tar.TypeXHeader)),
		"a name of 8 MiB":        gz(t, special(t, tar.TypeGNULongName)),
		"a sparse file of 8 EiB": sparse(t),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Unpack(t.Context(), io.NopCloser(bytes.NewReader(stream)), t.TempDir(),
				Want{Digest: sum(stream), Size: int64(len(stream)), DiffID: sum(nil)}, NewBudget(1<<20, 10))
			runtime.ReadMemStats(&after)
			must.Error(t, err)
			must.True(t, IsContent(err), must.Sprint(err))
			must.Less(t, 300<<20, after.TotalAlloc-before.TotalAlloc)
		})
	}
}

// TestRootExtractKeepsLittleInMind has archives name a long path again and again.
func TestRootExtractKeepsLittleInMind(t *testing.T) {
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 16)
	const entries, room = 2000, 1 << 20 // 8 MB of paths
	for _, tc := range []struct {
		name string
		make func(i int) tar.Header
		want error
	}{
		{"one directory", func(int) tar.Header { return e(dir, deep, "") }, nil},
		{"one short name", func(int) tar.Header { return e(dir, "d", "") }, nil},
		{"whiteouts", func(i int) tar.Header { return e(reg, deep+".wh."+fmt.Sprint(i), "") }, ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var all []tar.Header
			for i := range entries {
				all = append(all, tc.make(i))
			}
			tree, err := openTree(t.TempDir())
			must.NoError(t, err)
			defer tree.close()
			x := newExtractor(tree, bytes.NewReader(pack(t, all...)), NewBudget(1<<20, 2*entries), 1<<30)
			x.room = room
			_, err = x.run(t.Context())
			must.ErrorIs(t, err, tc.want)
			kept := 0
			for _, one := range x.times {
				kept += len(one.rel) + int(unsafe.Sizeof(one))
			}
			for path := range x.opaque {
				kept += len(path)
			}
			must.Less(t, room+1, kept)
			must.Positive(t, kept)
		})
	}
}

// TestRootUnpackRefusesHoles unpacks a layer of a few KiB that would fill the disk with zeros.
func TestRootUnpackRefusesHoles(t *testing.T) {
	for size, want := range map[int]error{1 << 20: nil, ratioFloor + 1: ErrTooLarge} {
		body := holes(t, size)
		dir := t.TempDir()
		stats, err := Unpack(t.Context(), io.NopCloser(bytes.NewReader(body)), dir, Want{Digest: sum(body), Size: int64(len(body)), DiffID: sum(body)}, NewBudget(1<<40, 10))
		must.ErrorIs(t, err, want)
		st, err := os.Stat(filepath.Join(dir, "f"))
		if want != nil {
			must.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		must.NoError(t, err)
		must.Eq(t, int64(size), st.Size())
		must.Eq(t, int64(size), stats.Bytes)
	}
}

// special is an archive whose first entry is no file but more about the next one than any needs.
func special(t *testing.T, kind byte) []byte {
	t.Helper()
	body := pack(t, e(reg, "f", strings.Repeat("x", 8<<20)))
	body[156] = kind
	copy(body[148:156], "        ")
	sum := 0
	for _, c := range body[:512] {
		sum += int(c)
	}
	copy(body[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return body
}

func sparse(t *testing.T) []byte { return holes(t, 9223372036854775000) }

// holes is a file of so many bytes that is all holes. The writer makes no such records itself.
func holes(t *testing.T, size int) []byte {
	t.Helper()
	body := fmt.Sprintf("1\n%d\n0\n", size)
	body += strings.Repeat("\x00", 512-len(body))
	h := with(e(reg, "f", body), func(h *tar.Header) {
		h.PAXRecords = map[string]string{"XNU.sparse.major": "1", "XNU.sparse.minor": "0", "XNU.sparse.name": "f", "XNU.sparse.realsize": fmt.Sprint(size)}
	})
	return bytes.ReplaceAll(pack(t, h), []byte("XNU.sparse"), []byte("GNU.sparse"))
}

func TestRootUnpackTellsItsSourceFromItsContent(t *testing.T) {
	body := gz(t, pack(t, e(reg, "f", strings.Repeat("x", 100_000))))
	broken := io.MultiReader(bytes.NewReader(body[:len(body)/2]), &failing{})
	_, err := Unpack(t.Context(), io.NopCloser(broken), t.TempDir(),
		Want{Digest: sum(body), Size: int64(len(body)), DiffID: sum(nil)}, NewBudget(1<<20, 10))
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)
	must.False(t, IsContent(err))
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRootUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(pack(t, e(reg, "f", "x"))[:512])
		cancel()
	}()
	_, err := Unpack(ctx, r, t.TempDir(), Want{Digest: sum(nil), Size: 1 << 20, DiffID: sum(nil)}, NewBudget(1<<20, 10))
	must.ErrorIs(t, err, context.Canceled)
}
