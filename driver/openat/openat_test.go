package openat

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// TestOpen stays below the directory, and passes on what the kernel says.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must.NoError(t, err)
	defer func() { must.NoError(t, unix.Close(root)) }()
	fd, err := Open(root, "../../file", unix.O_RDONLY, unix.RESOLVE_IN_ROOT)
	must.NoError(t, err)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	must.NoError(t, err)
	must.Eq(t, unix.FD_CLOEXEC, flags)
	must.NoError(t, unix.Close(fd))
	_, err = Open(root, "none", unix.O_RDONLY, unix.RESOLVE_IN_ROOT)
	must.ErrorIs(t, err, unix.ENOENT)
	_, err = Open(root, "../file", unix.O_RDONLY, unix.RESOLVE_BENEATH)
	must.ErrorIs(t, err, unix.EXDEV)
}

// TestOpenWhileOthersRename opens a path with ".." while files are renamed elsewhere, until the kernel itself has wanted to
// be asked again.
func TestOpenWhileOthersRename(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("one processor renames nothing while it opens a path")
	}
	dir, elsewhere := t.TempDir(), t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	a, b := filepath.Join(elsewhere, "a"), filepath.Join(elsewhere, "b")
	must.NoError(t, os.WriteFile(a, nil, 0o600))
	var renaming sync.WaitGroup
	stop := make(chan struct{})
	renaming.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = os.Rename(a, b), os.Rename(b, a)
			}
		}
	})
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must.NoError(t, err)
	defer func() {
		close(stop)
		renaming.Wait()
		must.NoError(t, unix.Close(root))
	}()
	path := strings.Repeat("../", 16) + "file"
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	for refused := false; !refused; {
		fd, err := unix.Openat2(root, path, &how)
		refused = errors.Is(err, unix.EAGAIN)
		if err == nil {
			must.NoError(t, unix.Close(fd))
		}
		fd, err = Open(root, path, unix.O_RDONLY, unix.RESOLVE_IN_ROOT)
		must.NoError(t, err)
		must.NoError(t, unix.Close(fd))
	}
}
