package registry

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"
)

// What the image to measure pulls with is made of: 656 MB of files, which compress to 219 MB.
const (
	bigLayers = 6
	bigFiles  = 20_000
	bigFile   = 32_800 // bytes
)

// Big makes an image to measure pulls with: 656 MB in 6 layers and 20,000 files, 219 MB as gzip packs them at its
// fastest. It is the same image every time.
func Big() (v1.Image, error) {
	layers := make([]v1.Layer, bigLayers)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for number := range layers {
		group.Go(func() error {
			archive, err := bigLayer(number, bigFiles)
			if err != nil {
				return err
			}
			layers[number], err = tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
				tarball.WithCompressedCaching)
			return err
		})
	}
	err := group.Wait()
	if err != nil {
		return nil, fmt.Errorf("cannot make a big layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, fmt.Errorf("cannot make a big image: %w", err)
	}
	return img, nil
}

// bigLayer archives every sixth of an image's files.
func bigLayer(number, files int) ([]byte, error) {
	content := newText(byte(number))
	var buffer bytes.Buffer
	buffer.Grow((files/bigLayers + 1) * (bigFile + 1024)) // a header and what fills up the last block
	archive := tar.NewWriter(&buffer)
	for file := number; file < files; file += bigLayers {
		body := content.read(bigFile)
		header := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", number, file/300, file), Mode: 0o644, Size: int64(len(body))}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = archive.Write(body)
		}
		if err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), archive.Close()
}

// text is content that gzip packs to a third, in short matches as program text has them: words that come again, with
// noise between them.
type text struct {
	random *rand.ChaCha8
	words  [64]string
}

func newText(seed byte) *text {
	t := &text{random: rand.NewChaCha8([32]byte{seed})}
	for i := range t.words {
		t.words[i] = fmt.Sprintf("%015x", t.random.Uint64()>>4)
	}
	return t
}

// read returns the next size bytes.
func (t *text) read(size int) []byte {
	out := make([]byte, 0, size+32)
	for len(out) < size {
		drawn := t.random.Uint64()
		out = append(out, t.words[drawn%uint64(len(t.words))]...)
		out = binary.LittleEndian.AppendUint32(out, uint32(drawn>>32))
	}
	return out[:size]
}
