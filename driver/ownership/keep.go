package ownership

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// pause is the least time between two walks.
const pause = time.Second

// Keep gives what appears in dir to the task until the context ends, and tells report what goes wrong.
func (r Range) Keep(ctx context.Context, dir string, report func(error)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch %s (raise the sysctl fs.inotify.max_user_instances): %w", dir, err)
	}
	defer func() { _ = w.Close() }()
	for {
		// Watch first, walk then: what comes in between is seen by one of the two.
		err = watch(w, dir)
		if err == nil {
			err = r.Give(dir)
		}
		if err != nil {
			report(err)
		}
		if !next(ctx, w) {
			return nil
		}
	}
}

// next waits for a change, and then until changes pause or have lasted for a while.
func next(ctx context.Context, w *fsnotify.Watcher) bool {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case _, ok := <-w.Events:
			if !ok {
				return false
			}
			if due == nil {
				due = time.After(pause)
			}
		case _, ok := <-w.Errors:
			// An overflow lost events: walk all the same.
			if !ok {
				return false
			}
			if due == nil {
				due = time.After(pause)
			}
		case <-due:
			return true
		}
	}
}

// watch adds the directories that are there. Those that are watched already stay so, those that went away end by themselves.
func watch(w *fsnotify.Watcher, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	dirs := 0
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // gone while we walked
		}
		dirs++
		if dirs > maxEntries/64 {
			return fs.SkipAll
		}
		_ = w.Add(filepath.Join(dir, name))
		return nil
	})
}
