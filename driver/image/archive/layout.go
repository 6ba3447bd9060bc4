package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// refName is the annotation by which an index tells its images apart.
const refName = "org.opencontainers.image.ref.name"

// Layout is an OCI image layout. Close it after its last blob has been read.
type Layout struct{ files files }

// OpenLayout opens the layout in the directory name beneath root.
func OpenLayout(root *os.Root, name string) (*Layout, error) {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &Layout{files: dirFiles{root: sub}}, nil
}

// OpenLayoutTar opens the layout in the tar file name beneath root.
func OpenLayoutTar(root *os.Root, name string) (*Layout, error) {
	t, err := openTar(root, name)
	if err != nil {
		return nil, err
	}
	return &Layout{files: t}, nil
}

// Close closes the files.
func (l *Layout) Close() error { return l.files.Close() }

// Top gives the descriptor of the image that tag names; without a tag, of the only one there is.
func (l *Layout) Top(tag string) (v1.Descriptor, error) {
	body, err := readAll(l.files, "index.json")
	if err != nil {
		return v1.Descriptor{}, err
	}
	var index v1.IndexManifest
	err = json.Unmarshal(body, &index)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("%w: index.json: %w", ErrInvalid, err)
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0], nil
	}
	for _, d := range index.Manifests {
		if tag != "" && d.Annotations[refName] == tag {
			return d, nil
		}
	}
	return v1.Descriptor{}, fmt.Errorf("%w: no image %q among the %d in it, name one by its tag", ErrInvalid, tag, len(index.Manifests))
}

// Manifest reads the manifest or index of that digest.
func (l *Layout) Manifest(_ context.Context, digest string) ([]byte, error) {
	name, err := blobName(digest)
	if err != nil {
		return nil, err
	}
	body, err := readAll(l.files, name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != digest {
		return nil, fmt.Errorf("%w: the blob %s holds %s", ErrInvalid, digest, got)
	}
	return body, nil
}

// Blob opens a blob, whose content is for the caller to verify.
func (l *Layout) Blob(_ context.Context, digest string, size int64) (io.ReadCloser, error) {
	name, err := blobName(digest)
	if err != nil {
		return nil, err
	}
	r, have, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	if have != size {
		_ = r.Close()
		return nil, fmt.Errorf("%w: blob %s has %d bytes where the manifest promises %d", ErrInvalid, digest, have, size)
	}
	return r, nil
}

func blobName(digest string) (string, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: digest %.80q", ErrInvalid, digest)
	}
	return "blobs/sha256/" + hex, nil
}
