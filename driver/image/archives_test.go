package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
)

// zstdLayer is a layer whose compressed form is given.
type zstdLayer struct {
	v1.Layer
	body []byte
}

func (z zstdLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(z.body)), nil
}
func (z zstdLayer) Size() (int64, error) { return int64(len(z.body)), nil }
func (z zstdLayer) MediaType() (types.MediaType, error) {
	return types.OCILayerZStd, nil
}

func (z zstdLayer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(z.body))
	return h, err
}

// waitFor polls for a state that another goroutine reaches in its own time.
func waitFor(f func() bool) *wait.Constraint {
	return wait.InitialSuccess(wait.BoolFunc(f), wait.Timeout(patience), wait.Gap(time.Millisecond))
}

// writeArchives puts one image into dir in each local form.
func writeArchives(t *testing.T, dir string) {
	t.Helper()
	p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	must.NoError(t, err)
	must.NoError(t, p.AppendImage(simple(t)))
	tag, err := name.NewTag("app:v1")
	must.NoError(t, err)
	// As "docker save" spells it, without the default registry.
	must.NoError(t, tarball.WriteToFile(filepath.Join(dir, "docker.tar"), tag, simple(t)))
	f, err := os.Create(filepath.Join(dir, "layout.tar"))
	must.NoError(t, err)
	w := tar.NewWriter(f)
	must.NoError(t, w.AddFS(os.DirFS(filepath.Join(dir, "layout"))))
	must.NoError(t, w.Close())
	must.NoError(t, f.Close())
}
