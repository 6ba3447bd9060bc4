package rootfs

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxSpaces bounds how many user namespaces are kept. Tasks get the lowest free range, so few are used again and again.
const maxSpaces = 64

// Spaces keeps the user namespaces of ranges, since to make one starts a process, which is half of what a mount costs.
// A namespace is nothing but its mapping here: no process runs in it, and it is the same for every task of the range.
type Spaces struct {
	mu   sync.Mutex
	kept map[Range]*os.File
}

// Open is Userns, remembered. The caller closes the file; a nil Spaces remembers nothing.
func (s *Spaces) Open(r Range) (*os.File, error) {
	if s == nil {
		return Userns(r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.kept[r]
	if kept != nil {
		return duplicate(kept)
	}
	ns, err := Userns(r)
	if err != nil || len(s.kept) >= maxSpaces {
		return ns, err
	}
	own, err := duplicate(ns)
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	if s.kept == nil {
		s.kept = map[Range]*os.File{}
	}
	s.kept[r] = own
	return ns, nil
}

// Close forgets all namespaces; those that mounts use live on.
func (s *Spaces) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, file := range s.kept {
		_ = file.Close()
	}
	s.kept = nil
}

func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
