package registry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Big makes an image to measure pulls with: 656 MB in 6 layers and 20,000 files, a third of that compressed. It is the
// same image every time.
func Big() (v1.Image, error) {
	img := empty.Image
	random := rand.NewChaCha8([32]byte{1})
	for number := range 6 {
		archive, err := bigLayer(random, number)
		if err != nil {
			return nil, fmt.Errorf("cannot make a big layer: %w", err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
			tarball.WithCompressedCaching)
		if err != nil {
			return nil, fmt.Errorf("cannot make a big layer: %w", err)
		}
		img, err = mutate.AppendLayers(img, layer)
		if err != nil {
			return nil, fmt.Errorf("cannot make a big image: %w", err)
		}
	}
	return img, nil
}

func bigLayer(random *rand.ChaCha8, number int) ([]byte, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for file := range 3334 {
		body := mixed(random, 32<<10)
		header := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", number, file/50, file), Mode: 0o644, Size: int64(len(body))}
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

// mixed makes content that gzip packs to about a third, in short matches as program text has them.
func mixed(random *rand.ChaCha8, size int) []byte {
	words := make([]string, 64)
	out := make([]byte, 0, size+64)
	for i := range words {
		words[i] = fmt.Sprintf("%x", random.Uint64())
	}
	for len(out) < size {
		out = append(out, words[random.Uint64()%64]...)
		var raw [8]byte
		_, _ = random.Read(raw[:3])
		out = append(out, raw[:3]...)
	}
	return out[:size]
}
