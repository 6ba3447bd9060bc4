package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const (
	// maxJSON bounds every document of an archive.
	maxJSON = 4 << 20
	// maxMembers bounds the index of a tar file; an image has a few dozen.
	maxMembers = 100_000
)

// ErrInvalid means that the archive is not what its reference says, or lies about its content.
var ErrInvalid = errors.New("not a valid image archive")

// files is what a directory and a tar file have in common.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// openFile opens a file without waiting: a FIFO put in its place would block a plain open for ever.
func openFile(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

type dirFiles struct{ root *os.Root }

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := openFile(d.root, name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", ErrInvalid, name)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func (d dirFiles) Close() error { return d.root.Close() }

type tarFiles struct {
	file    *os.File
	members map[string]member
}

type member struct {
	at, size int64
	link     string
}

// openTar indexes a tar file; the members' content stays where it is.
func openTar(root *os.Root, name string) (*tarFiles, error) {
	f, err := openFile(root, name)
	if err != nil {
		return nil, err
	}
	t := &tarFiles{file: f, members: map[string]member{}}
	err = t.index()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

func (t *tarFiles) index() error {
	st, err := t.file.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() { // a FIFO, say, would block for ever
		return fmt.Errorf("%w: no regular file", ErrInvalid)
	}
	r := tar.NewReader(t.file)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if len(t.members) >= maxMembers {
			return fmt.Errorf("%w: more than %d members", ErrInvalid, maxMembers)
		}
		at, err := t.file.Seek(0, io.SeekCurrent) // the tar reader reads headers without reading ahead
		if err != nil {
			return err
		}
		key := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			t.members[key] = member{at: at, size: h.Size}
		case tar.TypeSymlink: // how "docker save" stores a layer that two images share
			// Only a key of the index, never a path on the disk.
			t.members[key] = member{link: path.Join(path.Dir(key), h.Linkname)} //nolint:gosec // nothing is extracted
		case tar.TypeLink:
			t.members[key] = member{link: path.Clean(h.Linkname)}
		}
	}
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	m, ok := t.members[path.Clean(name)]
	if ok && m.link != "" {
		m, ok = t.members[m.link]
	}
	if !ok || m.link != "" {
		return nil, 0, fmt.Errorf("cannot find %q in the archive: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(t.file, m.at, m.size)), m.size, nil
}

func (t *tarFiles) Close() error { return t.file.Close() }

// readAll reads a document of the archive into memory.
func readAll(f files, name string) ([]byte, error) {
	r, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	if size > maxJSON {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrInvalid, name, size, maxJSON)
	}
	return io.ReadAll(io.LimitReader(r, maxJSON))
}
