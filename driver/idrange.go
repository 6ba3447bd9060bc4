package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"pangaea/driver/sandbox"
)

// idRanges hands out ranges of 65,536 user identifiers, so that no two live tasks of this host share one, whichever
// driver process started them. A claim is a symbolic link, made in one step, from the range's number to the task's
// directory; it stands for as long as that directory does, and for no longer than the host runs.
type idRanges struct {
	dir          string
	start, slots uint32
}

// claim gives a range to the task whose directory exists at taskDir, the one it already has if any.
func (r *idRanges) claim(taskDir string) (start uint32, err error) {
	err = os.MkdirAll(r.dir, 0o700)
	if err != nil {
		return 0, fmt.Errorf("cannot make the registry of user identifiers: %w", err)
	}
	unlock, err := r.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	for slot := range r.slots {
		first := r.start + slot*sandbox.IDRangeSize
		ok, err := r.take(first, taskDir)
		if err != nil {
			return 0, err
		}
		if ok {
			return first, nil
		}
	}
	return 0, fmt.Errorf("cannot find a free range of user identifiers: all %d are in use; enlarge the driver's userns block", r.slots)
}

// take claims one range unless it belongs to a live task. The caller holds the lock, so nobody claims between the
// look at a dead task's link and its removal.
func (r *idRanges) take(first uint32, taskDir string) (bool, error) {
	link := r.link(first)
	owner, err := os.Readlink(link)
	if err == nil {
		if owner == taskDir {
			return true, nil
		}
		_, err = os.Lstat(owner)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		err = os.Remove(link)
		if err != nil {
			return false, fmt.Errorf("cannot free a dead task's user identifiers: %w", err)
		}
	}
	err = os.Symlink(taskDir, link)
	if err != nil {
		return false, fmt.Errorf("cannot claim a range of user identifiers: %w", err)
	}
	return true, nil
}

// release frees the range if it is that task's.
func (r *idRanges) release(first uint32, taskDir string) {
	unlock, err := r.lock()
	if err != nil {
		return // the claim ends with the task's directory anyway
	}
	defer unlock()
	owner, err := os.Readlink(r.link(first))
	if err == nil && owner == taskDir {
		_ = os.Remove(r.link(first))
	}
}

func (r *idRanges) link(first uint32) string {
	return filepath.Join(r.dir, strconv.FormatUint(uint64(first), 10))
}

func (r *idRanges) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the registry of user identifiers: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock the registry of user identifiers: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
