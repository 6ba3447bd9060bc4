package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/image/rootfs"
)

// Unmount takes a task's root file system down, deletes its writable layer and drops its reference on the
// image. It may be called again, and for a task that has none.
func (s *Store) Unmount(id string) error {
	err := checkID(id)
	if err == nil {
		err = s.unmount(id)
	}
	if err != nil {
		return fmt.Errorf("cannot unmount root file system: %w", err)
	}
	return nil
}

// unmount goes in the reverse order of Mount. The record is the last to go, so that a kill at any point
// leaves the task in Mounts and a second call ends the work.
func (s *Store) unmount(id string) error {
	view, task := s.rootfsDir(id), s.path("tasks", id)
	// To find what is mounted, the list of all the host's mounts is read: once, where the only mount is the one that should be.
	err := rootfs.Unmount(filepath.Join(view, "rootfs"))
	if err == nil {
		err = rootfs.UnmountAll(view, task)
	}
	if err != nil {
		return err
	}
	// Never a recursive removal: should a mount reappear, what is in it stays.
	for _, dir := range []string{filepath.Join(view, "rootfs"), view} {
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return s.forget(task)
}

// forget deletes a task's writable layer and, last, its record.
func (s *Store) forget(task string) error {
	var rec mountRecord
	if readJSON(filepath.Join(task, "record.json"), &rec) == nil && validDigest(rec.Digest) {
		now := time.Now()
		_ = os.Chtimes(s.path("images", hexOf(rec.Digest)), now, now) // its age counts from its last use
	}
	entries, err := os.ReadDir(task)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "record.json" {
			continue
		}
		err = os.RemoveAll(filepath.Join(task, e.Name()))
		if err != nil {
			return err
		}
	}
	return os.RemoveAll(task)
}

// Mounts lists the tasks that have a mount, a writable layer or a reference on an image.
func (s *Store) Mounts() ([]string, error) {
	var ids []string
	for _, dir := range []string{s.path("tasks"), s.rootfsDir("")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !isNotExist(err) {
			return nil, fmt.Errorf("cannot list root file systems: %w", err)
		}
		for _, e := range entries {
			if checkID(e.Name()) == nil && !slices.Contains(ids, e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}
