package layer

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// FuzzRootUnpack feeds arbitrary streams to the extractor: it never panics, never leaves its directory,
// never makes a device but whiteouts.
func FuzzRootUnpack(f *testing.F) {
	seeds := [][]byte{
		pack(f, e(reg, "a/b", "hi"), e(sym, "l", "../.."), e(hard, "h", "a/b")),
		pack(f, e(reg, ".wh.x", ""), e(dir, "x", ""), e(reg, "x/.wh..wh..opq", "")),
		pack(f, e(sym, "up", ".."), e(reg, "up/out", "x"), e(reg, "../out", "x")),
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	must.NoError(f, err)
	corpus, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(goroot)), "src/archive/tar/testdata/*.tar"))
	must.NoError(f, err)
	for _, path := range corpus {
		body, err := os.ReadFile(path)
		must.NoError(f, err)
		if len(body) < 64<<10 {
			seeds = append(seeds, body)
		}
	}
	for _, s := range seeds {
		f.Add(s)
		f.Add(gz(f, s))
		f.Add(zs(f, s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		parent := t.TempDir()
		root := filepath.Join(parent, "layer")
		must.NoError(t, os.Mkdir(root, 0o755))
		_, _ = Unpack(t.Context(), io.NopCloser(bytes.NewReader(body)), root, Want{Size: -1, DiffID: sum(body)}, NewBudget(1<<20, 200))
		beside, err := os.ReadDir(parent)
		must.NoError(t, err)
		must.Eq(t, 1, len(beside))
		list(t, root) // checks that character devices are 0:0
	})
}
