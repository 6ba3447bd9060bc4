// Package openat opens paths that somebody else chose, below a directory of ours.
package openat

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Open is openat2(2) with flags (O_CLOEXEC is added) and RESOLVE_ flags. The kernel refuses a ".." below such a directory
// with EAGAIN when anything was renamed or mounted on the machine meanwhile, and wants to be asked again.
func Open(dir int, path string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		return fd, os.NewSyscallError("openat2", err)
	}
}
