package image

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// spared is how long an image is spared after its last use on a disk that is full: somebody is about to mount it.
const spared = time.Minute

// fullError says that the disk has no room for what a task needs, also without what nobody uses.
type fullError struct {
	at    string
	free  int64 // bytes, when the last try began
	files uint64
	after string // what was done for room, in words that go on a sentence
	err   error  // a shortage, or ENOSPC or EDQUOT
}

// Error tells where there is no room, how much is missing as far as that is known, and what to do.
func (e *fullError) Error() string {
	text := fmt.Sprintf("%v: it needs more than the %s and %d files that were free at %s", e.err, size(e.free), e.files, e.at)
	var short *shortage
	if errors.As(e.err, &short) {
		text = fmt.Sprintf("%v: %s are free at %s, so that at least %s are missing", e.err, size(e.free), e.at, size(short.need-e.free))
	}
	return text + ", " + e.after + "; free disk space there, or let the operator lower the driver's gc watermarks or put its state_dir on a larger disk"
}

// Unwrap gives the cause.
func (e *fullError) Unwrap() error { return e.err }

// shortage is found before anything is written.
type shortage struct{ need int64 } // bytes at least

func (s *shortage) Error() string { return "its missing layers are " + size(s.need) + " to download" }

// Unwrap makes it the same as what would have come of trying.
func (s *shortage) Unwrap() error { return unix.ENOSPC }

func size(bytes int64) string { return humanize.IBytes(uint64(max(0, bytes))) }

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// roomTries bounds how often the same work is done: what is known beforehand to be missing is less than what turns out
// to be, so that there may be too little twice.
const roomTries = 3

// withRoom does work, and again if the disk was full and what nobody uses could go.
func withRoom[T any](ctx context.Context, s *Store, work func() (T, error)) (T, error) {
	var images int
	var bytes int64
	for try := 1; ; try++ {
		_, free, files := s.statfs()
		done, err := work()
		if !isFull(err) {
			return done, err
		}
		need := int64(math.MaxInt64)
		var short *shortage
		if errors.As(err, &short) {
			need = short.need
		}
		result, refusal := s.makeRoom(ctx, need)
		images, bytes = images+result.Images, bytes+result.Bytes
		_, freeNow, filesNow := s.statfs()
		gained := result.Layers > 0 || freeNow > free || filesNow > files
		if refusal == "" && gained && try < roomTries {
			continue
		}
		if refusal == "" {
			refusal = fmt.Sprintf("after %d unused images of %s were deleted", images, size(bytes))
		}
		return done, &fullError{at: s.root, free: int64(free), files: files, after: refusal, err: err}
	}
}

// makeRoom deletes what nobody uses, the least recently used first, until so many bytes are free. Who needs as much at
// the same time waits for the same run. A refusal says why nothing was done, in words that go on a sentence.
func (s *Store) makeRoom(ctx context.Context, need int64) (result GCResult, refusal string) {
	select {
	case <-s.swept:
	case <-ctx.Done():
		return GCResult{}, "while what a killed process left was being removed"
	}
	if s.opts.KeepUnused {
		return GCResult{}, "and unused images stay as the driver's gc is disabled"
	}
	result, _, err := s.rooms.do(ctx, strconv.FormatInt(need, 10), func(ctx context.Context) (GCResult, error) {
		res, err := s.GC(ctx, GCPolicy{MinIdle: spared, Room: need})
		s.log.Info("collected unused images as the disk is full", "images", res.Images, "layers", res.Layers, "bytes", res.Bytes, "error", err)
		return res, err
	})
	switch {
	case err != nil:
		return result, fmt.Sprintf("and unused images could not be deleted (%v)", err)
	case result.Busy:
		return result, "and unused images stay as another plugin process is at the store"
	}
	return result, ""
}
