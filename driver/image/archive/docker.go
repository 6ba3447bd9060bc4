package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// Docker is a tar file made by "docker save". Close it after its last layer has been read.
type Docker struct {
	tar   *tarFiles
	entry dockerEntry
}

// dockerEntry is one image in manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// OpenDocker opens the tar file name beneath root and picks the image that tag names; without a tag,
// the only one there is.
func OpenDocker(root *os.Root, name, tag string) (*Docker, error) {
	t, err := openTar(root, name)
	if err != nil {
		return nil, err
	}
	d := &Docker{tar: t}
	d.entry, err = pick(t, tag)
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	return d, nil
}

func pick(t *tarFiles, tag string) (dockerEntry, error) {
	body, err := readAll(t, "manifest.json")
	if err != nil {
		return dockerEntry{}, err
	}
	var entries []dockerEntry
	err = json.Unmarshal(body, &entries)
	if err != nil {
		return dockerEntry{}, fmt.Errorf("%w: manifest.json: %w", ErrInvalid, err)
	}
	if tag == "" && len(entries) == 1 {
		return entries[0], nil
	}
	for _, e := range entries {
		if tag != "" && slices.Contains(e.RepoTags, tag) {
			return e, nil
		}
	}
	return dockerEntry{}, fmt.Errorf("%w: no image %q among the %d in it, name one by its tag", ErrInvalid, tag, len(entries))
}

// Close closes the file.
func (d *Docker) Close() error { return d.tar.Close() }

// Config reads the image's config.
func (d *Docker) Config() ([]byte, error) { return readAll(d.tar, d.entry.Config) }

// Layers tells how many layers there are.
func (d *Docker) Layers() int { return len(d.entry.Layers) }

// Layer opens the i-th layer from the bottom, whose content is for the caller to verify.
func (d *Docker) Layer(i int) (io.ReadCloser, error) {
	r, _, err := d.tar.open(d.entry.Layers[i])
	return r, err
}
