package ownership

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxEntries bounds one walk: Nomad's /secrets is 1 MiB, and whoever fills it with more than this is the task itself.
const maxEntries = 16384

// Range is a task's block of identifiers: user i of the task is Start+i on the host.
type Range struct{ Start, Count uint32 }

// host tells what an identifier of the host becomes: one that is the task's stays, root's become the task's root's.
func (r Range) host(id uint32) uint32 {
	switch {
	case id >= r.Start && id-r.Start < r.Count:
		return id
	case id < r.Count:
		return r.Start + id
	default:
		return r.Start + r.Count - 2 // nobody, as in a mapped mount
	}
}

// InMemory tells whether a directory is on a file system in memory.
func InMemory(dir string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err != nil {
		return false, fmt.Errorf("cannot tell the file system of %s: %w", dir, err)
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC, nil
}

// Give makes everything in dir, and dir itself, the task's. It may be repeated.
func (r Range) Give(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot give %s to the task: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	entries := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		entries++
		if entries > maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		if err == nil {
			err = r.give(root, name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone while we walked
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot give %s to the task: %w", dir, err)
	}
	return nil
}

func (r Range) give(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("internal error: %s has no owner", name)
	}
	uid, gid := r.host(st.Uid), r.host(st.Gid)
	if uid == st.Uid && gid == st.Gid {
		return nil
	}
	return root.Lchown(name, int(uid), int(gid))
}
