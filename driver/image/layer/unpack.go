package layer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd frame can make us take; level 22 asks for as much.
const maxWindow = 128 << 20

// Want is what the manifest and the image config promise about a layer.
type Want struct {
	Digest string // sha256:..., of the stream as it comes
	Size   int64  // of the stream as it comes; -1 if unknown, and then Digest is not checked
	DiffID string // sha256:..., of the tar archive inside
}

// Stats tells what a layer came to.
type Stats struct {
	Bytes   int64 // of file content
	Entries int64
	Skipped int64 // device nodes and aufs leftovers, which are not made
}

// Unpack extracts the layer that src yields into dir, an empty directory. It closes src. On an error the
// caller deletes dir.
func Unpack(ctx context.Context, src io.ReadCloser, dir string, want Want, budget *Budget) (Stats, error) {
	limit := want.Size
	if limit < 0 {
		limit = math.MaxInt64 - 1
	}
	wire := newAhead(markSource{src}, sha256.New(), limit)
	defer wire.Close()
	stop := context.AfterFunc(ctx, func() { _ = src.Close() })
	defer stop()
	defer func() { _ = src.Close() }()
	plain, release, err := decompress(wire)
	if err != nil {
		return Stats{}, content(ctx, err)
	}
	defer release()
	archive := newAhead(plain, sha256.New(), ratioLimit(want.Size))
	defer func() {
		_ = src.Close() // first, or the decompressor might wait for it for ever
		archive.Close()
	}()
	stats, err := extract(ctx, archive, dir, budget, ratioLimit(want.Size))
	if err != nil {
		return stats, content(ctx, err)
	}
	return stats, content(ctx, verify(wire, archive, want))
}

// ratioLimit is how many bytes a stream of that size may decompress to.
func ratioLimit(size int64) int64 {
	if size < 0 || size > math.MaxInt64/(2*maxRatio) {
		return math.MaxInt64 - 1
	}
	return max(ratioFloor, size*maxRatio)
}

// decompress looks at the first bytes rather than at the media type: registries hold layers whose
// type says gzip and that are plain or zstd, and the digests decide in the end.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		gz, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, err
		}
		return gz, func() { _ = gz.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zs, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return zs, zs.Close, nil
	}
	return br, func() {}, nil
}

// verify reads what the tar reader left (padding, and anything smuggled behind it, which counts in the
// digests too) and compares both digests.
func verify(wire, archive *ahead, want Want) error {
	for _, a := range []*ahead{archive, wire} {
		if _, err := io.Copy(io.Discard, a); err != nil {
			return err
		}
		a.Close()
	}
	if want.Size >= 0 {
		if wire.n != want.Size {
			return fmt.Errorf("%w: got %d bytes where the manifest promises %d", ErrCorrupt, wire.n, want.Size)
		}
		if got := digest(wire); got != want.Digest {
			return fmt.Errorf("%w: got digest %s where the manifest promises %s", ErrCorrupt, got, want.Digest)
		}
	}
	if got := digest(archive); got != want.DiffID {
		return fmt.Errorf("%w: got diff ID %s where the image config promises %s", ErrCorrupt, got, want.DiffID)
	}
	return nil
}

func digest(a *ahead) string { return "sha256:" + hex.EncodeToString(a.sum.Sum(nil)) }
