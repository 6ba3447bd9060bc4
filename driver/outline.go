package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"pangaea/driver/supervisor"
)

// outlines keeps one directory ready for the next task, with all the files in it that a start fills. To make those takes
// ext4 up to a third of a millisecond each while files are deleted nearby, since it looks for an inode that nobody has
// used of late: a fifth of a start. Until a task takes it, the directory says nothing and lies where no task does.
type outlines struct {
	dir string // holds the directories that wait, one for each process, and nothing else

	mu    sync.Mutex
	spare *os.File // the directory, locked for as long as it waits; or nil
}

// Make has a directory waiting. Without one, tasks make do.
func (o *outlines) Make() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spare != nil {
		return nil
	}
	spare, err := newOutline(o.dir)
	if err != nil {
		return fmt.Errorf("cannot make a task's directory ahead of it: %w", err)
	}
	o.spare = spare
	return nil
}

func newOutline(in string) (*os.File, error) {
	err := os.MkdirAll(in, 0o700)
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(in, "")
	if err != nil {
		return nil, err
	}
	dir, err := lockDir(path)
	if err == nil {
		err = outline(path)
	}
	if err != nil {
		_ = dir.Close() // of a nil file, too
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return dir, nil
}

// lockDir takes a directory that no living process holds.
func lockDir(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = dir.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return dir, nil
}

// outline makes what a start fills: empty files under the names that they have until they are whole, and places for mounts.
func outline(dir string) error {
	for _, place := range []string{etcDir(dir), sysfsDir(dir)} {
		err := os.Mkdir(place, 0o755)
		if err != nil {
			return err
		}
	}
	for _, file := range networkFiles(dir) {
		err := os.WriteFile(file, nil, 0o644) // the task reads them
		if err != nil {
			return err
		}
	}
	for _, file := range []string{filepath.Join(dir, taskRecord+"~"), netnsPath(dir)} {
		err := os.WriteFile(file, nil, 0o600)
		if err != nil {
			return err
		}
	}
	return supervisor.Outline(dir)
}

// Take makes a task's directory, of the waiting one if there is one. It fails with os.ErrExist if the directory exists.
func (o *outlines) Take(dir string) error {
	o.mu.Lock()
	spare := o.spare
	o.spare = nil
	o.mu.Unlock()
	if spare != nil {
		defer spare.Close()
		err := unix.Renameat2(unix.AT_FDCWD, spare.Name(), unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
		if err == nil {
			return nil
		}
		// Whatever is wrong with it, or with where it shall go, the other way finds out.
		_ = os.RemoveAll(spare.Name())
	}
	return os.Mkdir(dir, 0o700)
}

// Clear removes the waiting directory, and any that a killed process has left; not that of one that lives, from which a
// task may take it at this moment.
func (o *outlines) Clear() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spare != nil {
		_ = o.spare.Close()
		o.spare = nil
	}
	entries, err := os.ReadDir(o.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(o.dir, e.Name())
		dir, lockErr := lockDir(path)
		if lockErr == nil {
			err = errors.Join(err, os.RemoveAll(path), dir.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove what waited for a task: %w", err)
	}
	return nil
}
