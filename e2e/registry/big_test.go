package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/shoenig/test/must"
)

// A fiftieth of the big image has a fiftieth of its size, compressed and not, and is the same every time.
func TestBigLayer(t *testing.T) {
	const share = 50
	sum := sha256.New()
	var packed bytes.Buffer
	files, size := 0, int64(0)
	for number := range bigLayers {
		archive, err := bigLayer(number, bigFiles/share)
		must.NoError(t, err)
		_, _ = sum.Write(archive)
		compressor, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
		must.NoError(t, err)
		_, err = compressor.Write(archive)
		must.NoError(t, errors.Join(err, compressor.Close()))
		for reader := tar.NewReader(bytes.NewReader(archive)); ; files++ {
			header, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must.NoError(t, err)
			size += header.Size
		}
	}
	must.Eq(t, 20_000, files*share)
	must.Eq(t, 656_000_000, size*share)
	must.Between(t, 219_000_000*98/100, packed.Len()*share, 219_000_000*102/100)
	must.Eq(t, "fd77787e5163ed6b1435ff0a01b13d75cb9e4409b14ed25cf353063a54a9ecbd", hex.EncodeToString(sum.Sum(nil)))
}
