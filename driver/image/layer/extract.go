package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// extractor is the state of one layer's extraction; it is for one goroutine.
type extractor struct {
	tree    *tree
	archive *tar.Reader
	budget  *Budget
	stats   Stats
	buf     []byte
	// opaque holds the whiteouts made so far, so that a directory which follows its own whiteout
	// becomes opaque, as the specification has it.
	opaque map[string]bool
	times  []dirTime
	// room is how many bytes opaque and times may still take.
	room int
	// limit is how many bytes of content may come out of the archive.
	limit int64
}

// dirTime is set last, since every file made inside changes it.
type dirTime struct {
	rel string
	ts  [2]unix.Timespec
}

func extract(ctx context.Context, r io.Reader, dir string, budget *Budget, limit int64) (Stats, error) {
	t, err := openTree(dir)
	if err != nil {
		return Stats{}, err
	}
	defer t.close()
	return newExtractor(t, r, budget, limit).run(ctx)
}

func newExtractor(t *tree, r io.Reader, budget *Budget, limit int64) *extractor {
	return &extractor{
		tree: t, archive: tar.NewReader(r), budget: budget, room: maxKept, limit: limit,
		buf: make([]byte, 1<<20), opaque: map[string]bool{},
	}
}

// keep says whether there is room to remember a path. Who names one directory of a long path a million times must not
// get the memory for that.
func (x *extractor) keep(path string) bool {
	const overhead = 64
	if len(path)+overhead > x.room {
		return false
	}
	x.room -= len(path) + overhead
	return true
}

func (x *extractor) run(ctx context.Context) (Stats, error) {
	for ctx.Err() == nil {
		h, err := x.archive.Next()
		if errors.Is(err, io.EOF) {
			return x.stats, x.setDirTimes()
		}
		if err != nil {
			return x.stats, err
		}
		err = x.entry(h)
		if err != nil {
			return x.stats, err
		}
	}
	return x.stats, context.Cause(ctx)
}

func (x *extractor) entry(h *tar.Header) error {
	err := x.budget.takeEntry()
	if err != nil {
		return err
	}
	x.stats.Entries++
	rel, err := clean(h.Name, h.Name)
	if err != nil {
		return err
	}
	if int64(h.Uid) < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) < 0 || int64(h.Gid) >= math.MaxUint32 {
		return hostile(h.Name, "has an owner out of range")
	}
	if rel == "." {
		return x.rootEntry(h)
	}
	dir, base := split(rel)
	err = checkWhiteout(h.Name, dir, base)
	if err != nil {
		return err
	}
	parent, err := x.tree.parent(dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(parent, dir, base)
	}
	return x.create(h, parent, dir, base)
}

// rootEntry takes the mode and owner of the layer's root directory from the archive.
func (x *extractor) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return hostile(h.Name, "replaces the root directory")
	}
	fd, err := x.tree.openDir(".")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return x.dirMeta(h, fd, ".")
}

// whiteout translates the archive's marks to overlayfs's: a 0:0 character device hides one name of the
// layers below, and the opaque attribute hides all that they have in a directory.
func (x *extractor) whiteout(parent int, dir, base string) error {
	if base == whiteoutOpaque {
		return setOpaque(parent)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		x.stats.Skipped++ // aufs's own bookkeeping
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil { // this layer already has the directory: only what lies below it is hidden
		defer func() { _ = unix.Close(fd) }()
		return setOpaque(fd)
	}
	err = unix.Mknodat(parent, name, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil // this layer's own file hides the lower one anyway
	}
	if err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	at := dir + "/" + name
	if !x.keep(at) {
		return fmt.Errorf("%w: it hides too many files of the layers below", ErrTooLarge)
	}
	x.opaque[at] = true
	return nil
}

func setOpaque(fd int) error {
	return os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0))
}

func (x *extractor) setDirTimes() error {
	for _, d := range x.times {
		fd, err := x.tree.openDir(d.rel)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // a later entry replaced it
		}
		if err != nil {
			return err
		}
		err = unix.UtimesNanoAt(fd, ".", d.ts[:], 0)
		_ = unix.Close(fd)
		if err != nil {
			return os.NewSyscallError("utimensat", err)
		}
	}
	return nil
}
