package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// xattrPrefix is where the tar reader puts extended attributes.
const xattrPrefix = "SCHILY.xattr."

// create makes one entry that is not a whiteout.
func (x *extractor) create(h *tar.Header, parent int, dir, base string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return x.directory(h, parent, dir, base)
	case tar.TypeReg, '\x00', tar.TypeGNUSparse, tar.TypeCont:
		return x.file(h, parent, dir, base)
	case tar.TypeSymlink:
		return x.symlink(h, parent, dir, base)
	case tar.TypeLink:
		return x.hardlink(h, parent, dir, base)
	case tar.TypeFifo:
		return x.fifo(h, parent, dir, base)
	case tar.TypeChar, tar.TypeBlock:
		// Old base images carry a /dev; the sandbox mounts its own over it. Refusing would lock them
		// out, making the node would hand the host's devices to whoever reads the layer.
		x.stats.Skipped++
		return nil
	}
	return hostile(h.Name, "is of an unknown type")
}

// fresh clears the place for an entry that can't share it: in a tar archive the last one wins.
func (x *extractor) fresh(parent int, dir, base string) (int, error) {
	err := x.tree.remove(parent, dir, base)
	if err != nil {
		return -1, err
	}
	delete(x.opaque, dir+"/"+base)
	return x.tree.parent(dir)
}

func (x *extractor) directory(h *tar.Header, parent int, dir, base string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	opaque := x.opaque[dir+"/"+base]
	fd, err := unix.Openat(parent, base, flags, 0)
	if err != nil {
		parent, err = x.fresh(parent, dir, base)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(parent, base, 0o700)
		if err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		fd, err = unix.Openat(parent, base, flags, 0)
	}
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if opaque {
		err = setOpaque(fd)
		if err != nil {
			return err
		}
	}
	rel := base
	if dir != "." {
		rel = dir + "/" + base
	}
	return x.dirMeta(h, fd, rel)
}

func (x *extractor) dirMeta(h *tar.Header, fd int, rel string) error {
	// Beyond that a directory is as old as its last file, which is only decoration.
	if x.keep(rel) {
		x.times = append(x.times, dirTime{rel: rel, ts: stamps(h)})
	}
	return applyMeta(h, fd)
}

func (x *extractor) file(h *tar.Header, parent int, dir, base string) error {
	err := x.budget.takeBytes(max(h.Size, 0))
	if err != nil {
		return err
	}
	x.stats.Bytes += h.Size
	if x.stats.Bytes > x.limit {
		// Holes take no room in the archive, and here all of theirs.
		return fmt.Errorf("%w: entry %.200q is almost all holes", ErrTooLarge, h.Name)
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent, base, flags, 0o600)
	if errors.Is(err, unix.EEXIST) {
		parent, err = x.fresh(parent, dir, base)
		if err != nil {
			return err
		}
		fd, err = unix.Openat(parent, base, flags, 0o600)
	}
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	err = x.fill(fd)
	if err == nil {
		err = applyMeta(h, fd)
	}
	if err == nil {
		ts := stamps(h)
		err = os.NewSyscallError("utimensat", unix.UtimesNanoAt(parent, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
	}
	closeErr := unix.Close(fd)
	if err == nil {
		err = os.NewSyscallError("close", closeErr)
	}
	return err
}

// fill copies the entry's content by plain writes: an os.File would cost a poller registration per file.
func (x *extractor) fill(fd int) error {
	for {
		n, err := x.archive.Read(x.buf)
		for done := 0; done < n; {
			m, werr := unix.Write(fd, x.buf[done:n])
			if errors.Is(werr, unix.EINTR) {
				continue
			}
			if werr != nil {
				return os.NewSyscallError("write", werr)
			}
			done += m
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (x *extractor) symlink(h *tar.Header, parent int, dir, base string) error {
	if h.Linkname == "" || len(h.Linkname) > maxPath || strings.ContainsRune(h.Linkname, 0) {
		return hostile(h.Name, "is a symbolic link to nothing that can be")
	}
	parent, err := x.fresh(parent, dir, base)
	if err != nil {
		return err
	}
	// The target may point anywhere: it is only ever resolved inside a container's root.
	err = unix.Symlinkat(h.Linkname, parent, base)
	if err != nil {
		return os.NewSyscallError("symlinkat", err)
	}
	return ownAt(h, parent, base)
}

// hardlink resolves its target like any parent, beneath the root, and never follows the last part.
func (x *extractor) hardlink(h *tar.Header, parent int, dir, base string) error {
	target, err := clean(h.Name, h.Linkname)
	if err != nil {
		return err
	}
	if target == "." {
		return hostile(h.Name, "is a hard link to the root directory")
	}
	fromDir, fromBase := split(target)
	if fromDir == dir && fromBase == base {
		return nil
	}
	from, err := x.tree.openDir(fromDir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	err = linkable(h.Name, from, fromBase)
	if err != nil {
		return err
	}
	parent, err = x.fresh(parent, dir, base)
	if err != nil {
		return err
	}
	err = unix.Linkat(from, fromBase, parent, base, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) {
		return hostile(h.Name, "is a hard link that cannot be made")
	}
	return os.NewSyscallError("linkat", err)
}

// linkable refuses hard links to what only looks like a part of this layer: a whiteout's node, linked under
// another name, would hide a file that the archive never mentions.
func linkable(entry string, from int, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(from, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return hostile(entry, "is a hard link to what this layer does not have")
	}
	return os.NewSyscallError("fstatat", err)
}

func (x *extractor) fifo(h *tar.Header, parent int, dir, base string) error {
	parent, err := x.fresh(parent, dir, base)
	if err != nil {
		return err
	}
	err = unix.Mknodat(parent, base, unix.S_IFIFO|uint32(h.Mode&0o777), 0)
	if err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	return ownAt(h, parent, base)
}

// applyMeta sets owner, mode and user.* attributes; the owner first, since chown clears set-user-ID bits.
func applyMeta(h *tar.Header, fd int) error {
	err := unix.Fchown(fd, h.Uid, h.Gid)
	if err != nil {
		return os.NewSyscallError("fchown", err)
	}
	err = unix.Fchmod(fd, uint32(h.Mode&0o7777))
	if err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "user.overlay.") {
			continue
		}
		// A file system without them, or a value too long for it, loses only decoration.
		_ = unix.Fsetxattr(fd, attr, []byte(value), 0)
	}
	return nil
}

func ownAt(h *tar.Header, parent int, base string) error {
	err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	ts := stamps(h)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(parent, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// stamps clamps to the years that every file system can hold.
func stamps(h *tar.Header) [2]unix.Timespec {
	at := h.ModTime
	if at.Before(time.Unix(0, 0)) || at.Year() > 2200 {
		at = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	return [2]unix.Timespec{ts, ts}
}
