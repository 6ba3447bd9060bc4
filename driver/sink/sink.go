// Package sink opens the FIFOs that Nomad's log collector reads, for the shim and for the plugin.
//
// They lie in a directory that the task can write to and rename, so what has the FIFO's name is looked at before it is
// opened, and no symlink leads elsewhere (CVE-2026-6959). The package keeps to the few imports that the shim has.
package sink

import (
	"errors"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// size is asked for a FIFO: what a task may write while Nomad's log collector restarts.
const size = 256 << 10

// Open opens a log FIFO for writing, and for reading too, so that a collector that dies costs no SIGPIPE and loses
// nothing that fits into the FIFO. It also returns the FIFO's inode number.
func Open(path string) (fd int, inode uint64, err error) {
	node, inode, err := find(path)
	if err != nil {
		return -1, 0, &failure{path, err}
	}
	defer func() { _ = unix.Close(node) }()
	// Only now is it safe to open: a device or a file of the host would have been opened by its name.
	fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(node), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, &failure{path, err}
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	return fd, inode, nil
}

// Inode is the number of the FIFO that has a path now: Nomad makes it anew after some restarts.
func Inode(path string) (uint64, error) {
	node, inode, err := find(path)
	if err != nil {
		return 0, &failure{path, err}
	}
	return inode, unix.Close(node)
}

// find finds a log FIFO without opening it. No symlink is followed in the last three parts of its path,
// <alloc dir>/alloc/logs/<name>.
func find(path string) (node int, inode uint64, err error) {
	base := filepath.Dir(filepath.Dir(filepath.Dir(path)))
	rest, err := filepath.Rel(base, path)
	if err != nil {
		return -1, 0, err
	}
	dir, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	defer func() { _ = unix.Close(dir) }()
	node, err = unix.Openat2(dir, rest, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, 0, err
	}
	var info unix.Stat_t
	err = unix.Fstat(node, &info)
	if err == nil && info.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = errors.New("it is no FIFO")
	}
	if err != nil {
		_ = unix.Close(node)
		return -1, 0, err
	}
	return node, info.Ino, nil
}

// failure is fmt.Errorf without fmt, which costs the shim memory.
type failure struct {
	path string
	err  error
}

func (f *failure) Error() string { return "cannot log to " + f.path + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }
