package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// minIdle keeps images that were just pulled and are about to be mounted.
const minIdle = 10 * time.Minute

// GCPolicy says what may go. Images with mounts always stay.
type GCPolicy struct {
	// MaxAge is how long an image may lie unused; 0 for ever.
	MaxAge time.Duration
	// MinIdle is how long an image stays in any case after its last use, 10 minutes if 0.
	MinIdle time.Duration
	// HighWatermark is the share of the disk in use, 0 to 1, above which images go, the least recently used
	// first, until it is at most LowWatermark. 0 means no watermark.
	HighWatermark, LowWatermark float64
	// Room is how many bytes shall be free: until they are, images go whatever the watermarks say.
	Room int64
}

// GCResult tells what went.
type GCResult struct {
	Images, Layers int
	Bytes          int64 // of file content in those layers
	// Used is the share of the disk in use afterwards.
	Used float64
	// Busy means that another process uses the store and nothing was done.
	Busy bool
}

// stored is one image as GC sees it.
type stored struct {
	Image
	used time.Time
}

// GC deletes images that policy lets go, and every layer that no image, mount or running pull needs.
func (s *Store) GC(ctx context.Context, p GCPolicy) (GCResult, error) {
	if p.MinIdle <= 0 {
		p.MinIdle = minIdle
	}
	res, doomed, err := s.collect(p)
	if err != nil {
		return res, fmt.Errorf("cannot collect unused images: %w", err)
	}
	// The slow part runs unlocked: what lies in tmp concerns nobody, and Open sweeps it after a kill.
	for _, dir := range doomed {
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		err = os.RemoveAll(dir)
		if err != nil {
			return res, fmt.Errorf("cannot delete an unused layer: %w", err)
		}
	}
	res.Used = s.diskUsed()
	return res, nil
}

// collect decides under the lock, and takes what goes out of the store by rename.
func (s *Store) collect(p GCPolicy) (GCResult, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	alone, release, err := s.lockOut()
	if err != nil {
		return GCResult{}, nil, err
	}
	defer release()
	if !alone {
		return GCResult{Busy: true}, nil, nil // another plugin process may be between a check and its use
	}
	images, err := s.stored()
	if err != nil {
		return GCResult{}, nil, err
	}
	inUse, err := s.referenced()
	if err != nil {
		return GCResult{}, nil, err
	}
	var res GCResult
	var doomed []string
	s.trimPartials(s.room(p))
	// Leftovers of deleted or re-tagged images first: they cost nobody anything.
	err = s.dropLayers(images, inUse, &res, &doomed)
	full := p.HighWatermark > 0 && s.usedWithout(res.Bytes) > p.HighWatermark
	for err == nil {
		i := s.victim(images, inUse, p, full && s.usedWithout(res.Bytes) > p.LowWatermark || s.freeBytes()+res.Bytes < p.Room)
		if i < 0 {
			break
		}
		err = os.Remove(s.path("images", hexOf(images[i].Digest)))
		images = slices.Delete(images, i, i+1)
		if err == nil {
			res.Images++
			err = s.dropLayers(images, inUse, &res, &doomed)
		}
	}
	if err == nil {
		err = s.dropRefs(images)
	}
	return res, doomed, err
}

// room is how much may stay of broken downloads: nothing on a disk that is full.
func (s *Store) room(p GCPolicy) int64 {
	if p.HighWatermark > 0 && s.diskUsed() > p.HighWatermark || s.freeBytes() < p.Room {
		return 0
	}
	return maxKept
}

// lockOut keeps other processes out of the store until release is called, if there are none already.
func (s *Store) lockOut() (alone bool, release func(), err error) {
	share := func() error { return flockWait(s.lock, unix.LOCK_SH) }
	if tryLock(s.lock) != nil {
		// The kernel drops a lock before it tries to convert it, and does not give it back on failure.
		return false, func() {}, share()
	}
	return true, func() {
		err := share()
		if err != nil {
			s.log.Warn("cannot take back the store's lock", "error", err)
		}
	}, nil
}

// victim picks the image to delete next; images come least recently used first. full says that the disk still is.
func (s *Store) victim(images []stored, inUse map[string]bool, p GCPolicy, full bool) int {
	for i, img := range images {
		idle := time.Since(img.used)
		switch {
		case idle < p.MinIdle || inUse[img.Digest]:
		case full, p.MaxAge > 0 && idle > p.MaxAge:
			return i
		}
	}
	return -1
}

// stored lists the images, least recently used first; records that do not parse are deleted.
func (s *Store) stored() ([]stored, error) {
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return nil, err
	}
	var out []stored
	for _, e := range entries {
		var img stored
		at := s.path("images", e.Name())
		st, err := os.Stat(at)
		if err == nil {
			err = readJSON(at, &img.Image)
		}
		if err != nil || hexOf(img.Digest) != e.Name() {
			_ = os.Remove(at)
			continue
		}
		img.used = st.ModTime()
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b stored) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.Digest, b.Digest)) })
	return out, nil
}

// referenced gives the images and layers that mounts and running pulls hold.
func (s *Store) referenced() (map[string]bool, error) {
	refs := map[string]bool{}
	entries, err := os.ReadDir(s.path("tasks"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var rec mountRecord
		err = readJSON(s.path("tasks", e.Name(), "record.json"), &rec)
		if err != nil && !isNotExist(err) {
			// Power loss can empty a record, and then its mount is gone, too.
			s.log.Warn("cannot read a mount's record", "task_id", e.Name(), "error", err)
			continue
		}
		refs[rec.Digest] = true
		for _, l := range rec.Layers {
			refs[hexOf(l)] = true
		}
	}
	s.pinMu.Lock()
	defer s.pinMu.Unlock()
	for hex := range s.pins {
		refs[hex] = true
	}
	return refs, nil
}

// dropLayers moves the layers that nobody refers to into tmp.
func (s *Store) dropLayers(images []stored, inUse map[string]bool, res *GCResult, doomed *[]string) error {
	keep := map[string]bool{"empty": true}
	for _, img := range images {
		for _, l := range img.Layers {
			keep[hexOf(l)] = true
		}
	}
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		hex := e.Name()
		if keep[hex] || inUse[hex] {
			continue
		}
		var meta layerMeta
		if readJSON(s.path("layers", hex, "meta.json"), &meta) == nil {
			res.Bytes += meta.Bytes
		}
		to := s.path("tmp", "gc-"+hex+"-"+fmt.Sprint(time.Now().UnixNano()))
		s.known.Delete(hex)
		err = os.Rename(s.path("layers", hex), to)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		res.Layers++
		*doomed = append(*doomed, to)
	}
	return nil
}

// dropRefs deletes what points at no image, and files that a kill left half-written.
func (s *Store) dropRefs(images []stored) error {
	entries, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := s.path("refs", e.Name())
		var rec refRecord
		err = readJSON(at, &rec)
		same := func(i stored) bool { return i.Digest == rec.Digest }
		if err == nil && !strings.HasSuffix(e.Name(), "~") && slices.ContainsFunc(images, same) {
			continue
		}
		err = os.Remove(at)
		if err != nil {
			return err
		}
	}
	return nil
}

// statfs is the disk's size and what it has left for this store, in bytes, and how many more files it takes, if it keeps
// count of them.
func (s *Store) statfs() (total, free float64, files uint64) {
	var st unix.Statfs_t
	err := unix.Statfs(filepath.Clean(s.root), &st)
	if err != nil || st.Blocks == 0 {
		return 1, 1, st.Ffree
	}
	return float64(st.Blocks) * float64(st.Bsize), float64(st.Bavail) * float64(st.Bsize), st.Ffree
}

// freeBytes is what the disk has left for this store.
func (s *Store) freeBytes() int64 {
	_, free, _ := s.statfs()
	return int64(free)
}

func (s *Store) diskUsed() float64 {
	total, free, _ := s.statfs()
	return 1 - free/total
}

// usedWithout is the share of the disk in use, less what this run has taken out but not deleted yet.
func (s *Store) usedWithout(bytes int64) float64 {
	total, _, _ := s.statfs()
	return s.diskUsed() - float64(bytes)/total
}
