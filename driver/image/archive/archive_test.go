package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

func pack(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range members {
		body := h.Linkname
		if h.Typeflag == 0 {
			h.Typeflag, h.Linkname, h.Size = tar.TypeReg, "", int64(len(body))
		}
		must.NoError(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, body)
			must.NoError(t, err)
		}
	}
	must.NoError(t, w.Close())
	return buf.Bytes()
}

// m makes a file; its content travels in Linkname until pack writes it.
func m(name, content string) tar.Header { return tar.Header{Name: name, Linkname: content} }

func link(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func openRoot(t testing.TB, name string, body []byte) *os.Root {
	t.Helper()
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, name), body, 0o600))
	root, err := os.OpenRoot(dir)
	must.NoError(t, err)
	t.Cleanup(func() { _ = root.Close() })
	return root
}

const one = `[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["a/layer.tar","b/layer.tar"]}]`

func TestDockerArchives(t *testing.T) {
	layers := []tar.Header{m("c.json", "{}"), m("a/layer.tar", "layer a"), link("b/layer.tar", "../a/layer.tar")}
	for _, tc := range []struct {
		name, tag, words string
		members          []tar.Header
	}{
		{"the only one", "", "", append(layers, m("manifest.json", one))},
		{"by tag", "app:v1", "", append(layers, m("manifest.json", one))},
		{"wrong tag", "app:v2", "no image", append(layers, m("manifest.json", one))},
		{"none", "", "among the 0", []tar.Header{m("manifest.json", "[]")}},
		{"no manifest", "", "cannot find", nil},
		{"broken manifest", "", "not a valid image archive", []tar.Header{m("manifest.json", "{")}},
		{"huge manifest", "", "more than", []tar.Header{m("manifest.json", strings.Repeat(" ", maxJSON+1))}},
		{"manifest is a link to itself", "", "cannot find", []tar.Header{link("manifest.json", "manifest.json")}},
		{"manifest is a link out", "", "cannot find", []tar.Header{link("manifest.json", "/etc/passwd")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := OpenDocker(openRoot(t, "x.tar", pack(t, tc.members...)), "x.tar", tc.tag)
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				return
			}
			must.NoError(t, err)
			defer func() { must.NoError(t, d.Close()) }()
			must.Eq(t, 2, d.Layers())
			for i := range 2 {
				r, err := d.Layer(i)
				must.NoError(t, err)
				got, err := io.ReadAll(r)
				must.NoError(t, err)
				must.Eq(t, "layer a", string(got))
			}
			config, err := d.Config()
			must.NoError(t, err)
			must.Eq(t, "{}", string(config))
		})
	}
}

func TestLayoutChecksWhatItReads(t *testing.T) {
	good := "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // {}
	index := `{"manifests":[{"digest":"` + good + `","annotations":{"org.opencontainers.image.ref.name":"v1"}},{"digest":"` + good + `"}]}`
	root := openRoot(t, "x.tar", pack(t, m("index.json", index), m("blobs/sha256/"+good[7:], "{}"),
		m("blobs/sha256/"+strings.Repeat("0", 64), "lie")))
	l, err := OpenLayoutTar(root, "x.tar")
	must.NoError(t, err)
	defer func() { must.NoError(t, l.Close()) }()
	top, err := l.Top("v1")
	must.NoError(t, err)
	must.Eq(t, good, top.Digest.String())
	_, err = l.Top("")
	must.ErrorContains(t, err, "among the 2")
	body, err := l.Manifest(t.Context(), good)
	must.NoError(t, err)
	must.Eq(t, "{}", string(body))
	for digest, words := range map[string]string{
		"sha256:" + strings.Repeat("0", 64): "holds sha256:",
		"sha256:" + strings.Repeat("1", 64): "cannot find",
		"sha256:../../../etc/passwd":        "not a valid",
		"md5:00":                            "not a valid",
	} {
		_, err = l.Manifest(t.Context(), digest)
		must.ErrorContains(t, err, words)
	}
	_, err = l.Blob(t.Context(), good, 3)
	must.ErrorContains(t, err, "promises 3")
}

func TestRootArchiveThatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	root, err := os.OpenRoot(dir)
	must.NoError(t, err)
	defer func() { _ = root.Close() }()
	_, err = OpenLayoutTar(root, "fifo")
	must.ErrorIs(t, err, ErrInvalid)
}

// FuzzArchive opens arbitrary files both ways and reads all that they offer.
func FuzzArchive(f *testing.F) {
	f.Add(pack(f, m("manifest.json", one), m("c.json", "{}"), m("a/layer.tar", "x"), link("b/layer.tar", "../a/layer.tar")))
	f.Add(pack(f, m("index.json", `{"manifests":[{}]}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		root := openRoot(t, "x.tar", body)
		d, err := OpenDocker(root, "x.tar", "")
		if err == nil {
			_, _ = d.Config()
			for i := range d.Layers() {
				r, err := d.Layer(i)
				if err == nil {
					_, _ = io.Copy(io.Discard, r)
				}
			}
			must.NoError(t, d.Close())
		}
		l, err := OpenLayoutTar(root, "x.tar")
		if err == nil {
			top, err := l.Top("")
			if err == nil {
				_, err = l.Manifest(t.Context(), top.Digest.String())
				must.False(t, errors.Is(err, io.ErrUnexpectedEOF))
			}
			must.NoError(t, l.Close())
		}
	})
}
