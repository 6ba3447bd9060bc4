package layer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"pangaea/driver/openat"
)

// tree is the directory being filled, by descriptor only. It is for one goroutine.
type tree struct {
	fd   int
	root *os.Root // for recursive removal, which os.Root does beneath the same directory

	// The parent that was used last: archives list a directory's files in a row.
	lastDir string
	lastFD  int
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = root.Close()
		return nil, os.NewSyscallError("open", err)
	}
	return &tree{fd: fd, root: root, lastFD: -1}, nil
}

func (t *tree) close() {
	t.forget()
	_ = unix.Close(t.fd)
	_ = t.root.Close()
}

// forget drops the remembered parent; whatever removes or replaces an entry calls it, because the
// remembered path might lead elsewhere afterwards.
func (t *tree) forget() {
	if t.lastFD >= 0 {
		_ = unix.Close(t.lastFD)
	}
	t.lastFD, t.lastDir = -1, ""
}

// parent opens the directory that rel names, making what is missing. Symbolic links on the way, which
// layers have in earnest (lib -> usr/lib), are followed as if the layer were the root directory:
// RESOLVE_IN_ROOT makes the kernel treat "/" and ".." so, without a window for a race.
func (t *tree) parent(rel string) (int, error) {
	if t.lastFD >= 0 && rel == t.lastDir {
		return t.lastFD, nil
	}
	fd, err := t.openDir(rel)
	if errors.Is(err, unix.ENOENT) && rel != "." {
		fd, err = t.makeDir(rel)
	}
	if err != nil {
		return -1, err
	}
	t.forget()
	t.lastFD, t.lastDir = fd, rel
	return fd, nil
}

func (t *tree) openDir(rel string) (int, error) {
	return t.open(rel, unix.O_RDONLY|unix.O_DIRECTORY)
}

func (t *tree) open(rel string, flags uint64) (int, error) {
	return openat.Open(t.fd, rel, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
}

// makeDir makes the directory rel and its parents. It recurses at most maxDepth deep, see clean.
func (t *tree) makeDir(rel string) (int, error) {
	dir, base := split(rel)
	up, err := t.openDir(dir)
	if errors.Is(err, unix.ENOENT) && dir != "." {
		up, err = t.makeDir(dir)
	}
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(up) }()
	err = unix.Mkdirat(up, base, 0o755)
	if err != nil {
		return -1, os.NewSyscallError("mkdirat", err)
	}
	return t.openDir(rel)
}

// remove deletes what is at dir/base, if anything, and tells whether it was a directory or a whiteout.
func (t *tree) remove(parent int, dir, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return os.NewSyscallError("unlinkat", err)
	}
	t.forget()
	rel := base
	if dir != "." {
		rel = dir + "/" + base
	}
	return t.root.RemoveAll(rel)
}
