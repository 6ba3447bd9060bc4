package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"pangaea/driver/image/layer"
)

// layerMeta lies beside a layer's tree.
type layerMeta struct {
	DiffID  string
	Bytes   int64
	Entries int64
	// Boot is the boot in which the layer was unpacked. In a later one the layer counts only with the mark
	// that its pages reached the disk.
	Boot string
}

const syncedMark = "synced"

// install unpacks one layer into a directory of its own and renames it into place. What an earlier pull kept of it may
// be damaged, by a power loss, say, or be a liar's: then the layer is fetched from its beginning.
func (s *Store) install(ctx context.Context, l layerPlan, budget *layer.Budget, t *tracker) error {
	for {
		resumed, err := s.tryInstall(ctx, l, budget, t)
		if err == nil || !resumed || !layer.IsContent(err) {
			return err
		}
		s.log.Debug("what was kept of a download is of no use", "blob", l.want.Digest, "error", err)
	}
}

func (s *Store) tryInstall(ctx context.Context, l layerPlan, budget *layer.Budget, t *tracker) (resumed bool, err error) {
	hex := hexOf(l.want.DiffID)
	if s.whole(hex) {
		return false, nil
	}
	dir, lock, err := s.tempDir()
	if err != nil {
		return false, fmt.Errorf("cannot make a layer's directory: %w", err)
	}
	defer func() { _ = lock.Close() }()
	resumed, err = s.unpack(ctx, l, dir, budget, t)
	if err == nil {
		err = s.place(dir, hex)
	}
	if err != nil {
		rmErr := os.RemoveAll(dir)
		if rmErr != nil {
			s.log.Warn("cannot remove a half-made layer", "path", dir, "error", rmErr)
		}
	}
	return resumed, err
}

func (s *Store) unpack(ctx context.Context, l layerPlan, dir string, budget *layer.Budget, t *tracker) (resumed bool, err error) {
	tree := filepath.Join(dir, "fs")
	err = os.Mkdir(tree, 0o755)
	if err != nil {
		return false, err
	}
	src, part, err := s.source(ctx, l)
	if part != nil {
		resumed = part.found > 0
		defer func() { part.close(err) }()
	}
	if err != nil {
		return resumed, err
	}
	stats, err := layer.Unpack(ctx, t.count(src), tree, l.want, budget)
	if err != nil {
		budget.Return(stats)
		return resumed, fmt.Errorf("cannot unpack layer %.19s: %w", l.want.DiffID, err)
	}
	meta := layerMeta{DiffID: l.want.DiffID, Bytes: stats.Bytes, Entries: stats.Entries, Boot: s.boot}
	err = s.writeJSON(filepath.Join(dir, "meta.json"), meta)
	return resumed, err
}

// place renames a finished layer into the store. What is in the way is a copy that power loss may have
// hurt; nothing of this boot mounts it, since Mount takes whole layers only.
func (s *Store) place(dir, hex string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at := s.path("layers", hex)
	err := os.Rename(dir, at)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if s.whole(hex) { // another process was faster
			return os.RemoveAll(dir)
		}
		err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, at, unix.RENAME_EXCHANGE)
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}
	return err
}

// whole tells whether a layer is there and complete.
func (s *Store) whole(hex string) bool {
	dir := s.path("layers", hex)
	if _, ok := s.known.Load(hex); ok {
		var st unix.Stat_t
		return unix.Lstat(dir, &st) == nil
	}
	var meta layerMeta
	err := readJSON(filepath.Join(dir, "meta.json"), &meta)
	if err != nil || hexOf(meta.DiffID) != hex {
		return false
	}
	if meta.Boot != s.boot && !s.synced(hex) {
		return false
	}
	s.known.Store(hex, true)
	return true
}

func (s *Store) synced(hex string) bool {
	_, err := os.Lstat(s.path("layers", hex, syncedMark))
	return err == nil
}

func (s *Store) sizeOf(layers []string) int64 {
	var sum int64
	for _, l := range layers {
		var meta layerMeta
		if readJSON(s.path("layers", hexOf(l), "meta.json"), &meta) == nil {
			sum += meta.Bytes
		}
	}
	return sum
}

// settleLater writes layers back to the disk and marks them, without keeping a task waiting: until then they
// are as good as any file of this boot. One goroutine does it for all pulls, and Close waits for it.
func (s *Store) settleLater(layers []string) {
	s.settleMu.Lock()
	defer s.settleMu.Unlock()
	running := len(s.unsettled) > 0
	for _, l := range layers {
		s.unsettled[hexOf(l)] = true
	}
	if !running && len(s.unsettled) > 0 {
		s.wg.Go(s.settle)
	}
}

func (s *Store) settle() {
	f, err := os.Open(s.path("layers"))
	if err != nil {
		s.log.Warn("cannot sync the image store", "error", err)
		s.settled(nil)
		return
	}
	defer func() { _ = f.Close() }()
	for {
		s.settleMu.Lock()
		batch := slices.Collect(maps.Keys(s.unsettled))
		s.settleMu.Unlock()
		err = unix.Syncfs(int(f.Fd()))
		if err != nil {
			s.log.Warn("cannot sync the image store", "error", err)
			batch = nil
		}
		for _, hex := range batch {
			// A layer that is gone by now needs no mark.
			_ = os.WriteFile(s.path("layers", hex, syncedMark), nil, 0o600)
		}
		if s.settled(batch) {
			return
		}
	}
}

// settled takes what was synced off the list, or all after a failure, and tells whether that ends the work.
func (s *Store) settled(batch []string) bool {
	s.settleMu.Lock()
	defer s.settleMu.Unlock()
	if batch == nil {
		clear(s.unsettled)
	}
	for _, hex := range batch {
		delete(s.unsettled, hex)
	}
	return len(s.unsettled) == 0
}

// pin keeps GC from layers that no image names yet, until the returned function is called.
func (s *Store) pin(layers []layerPlan) func() {
	count := func(by int) {
		s.pinMu.Lock()
		defer s.pinMu.Unlock()
		for _, l := range layers {
			hex := hexOf(l.want.DiffID)
			s.pins[hex] += by
			if s.pins[hex] <= 0 {
				delete(s.pins, hex)
			}
		}
	}
	count(1)
	return func() { count(-1) }
}
