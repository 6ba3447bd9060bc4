package image

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/image/layer"
)

const (
	// keepFrom is the size from which it pays to keep what has come of a blob.
	keepFrom = 4 << 20
	// maxKept and maxKeptAge bound what broken downloads may leave on the disk, all of them together.
	maxKept    = 8 << 30
	maxKeptAge = 24 * time.Hour
)

// partial is what has come of one blob so far, under the blob's digest in the directory partial. It outlives the
// process. Nothing in it is trusted: the blob is hashed from its first byte again when the rest has come.
type partial struct {
	store *Store
	file  *os.File
	have  int64 // in the file
	found int64 // of which an earlier pull left
}

// openPartial takes up what there is of a blob, or begins with nothing. Without an error there may still be none: another
// pull has it, or the disk has no place.
func (s *Store) openPartial(digest string, size int64) *partial {
	f, err := os.OpenFile(s.path("partial", hexOf(digest)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil
	}
	p := &partial{store: s, file: f}
	st, err := f.Stat()
	if err != nil || tryLock(f) != nil {
		_ = f.Close()
		return nil
	}
	p.have = st.Size()
	if p.have > size {
		p.drop()
	}
	p.found = p.have
	return p
}

// drop begins anew, and gives the space back.
func (p *partial) drop() {
	p.have = 0
	_ = p.file.Truncate(0)
}

// keep adds what has come. It is only for the next try, so that a disk without place for it is no failure of this one.
func (p *partial) keep(b []byte) {
	if p.have < 0 {
		return
	}
	_, err := p.file.WriteAt(b, p.have)
	if err != nil {
		p.drop()
		p.have = -1 // there would be a hole
		return
	}
	p.have += int64(len(b))
}

// close keeps the file for another try if why may pass, and deletes it if the layer is in place, if its content
// was wrong, or if its space is needed.
func (p *partial) close(why error) {
	_, free, _ := p.store.statfs()
	full := errors.Is(why, unix.ENOSPC) || errors.Is(why, unix.EDQUOT) || free < float64(p.have)
	if why == nil || p.have <= 0 || layer.IsContent(why) || full {
		_ = os.Remove(p.file.Name())
	}
	_ = p.file.Close()
	p.store.trimPartials(maxKept)
}

// resumed reads what was kept, then what comes, and keeps that.
type resumed struct {
	old  io.Reader
	rest io.ReadCloser
	part *partial
}

func (r *resumed) Read(b []byte) (int, error) {
	n, err := r.old.Read(b)
	if n > 0 || err != nil && err != io.EOF {
		return n, err
	}
	n, err = r.rest.Read(b)
	r.part.keep(b[:n])
	return n, err
}

// Close ends the download; the file stays open until the reader is gone.
func (r *resumed) Close() error { return r.rest.Close() }

// source opens a layer's stream. What is large and comes from a registry is kept as it comes; part is nil otherwise.
func (s *Store) source(ctx context.Context, l layerPlan) (src io.ReadCloser, part *partial, err error) {
	if l.from != nil && l.want.Size >= s.opts.keepFrom {
		part = s.openPartial(l.want.Digest, l.want.Size)
	}
	if part == nil {
		src, err = l.open(ctx)
		return src, nil, err
	}
	rest, err := l.from(ctx, part.have)
	if err != nil {
		return nil, part, err
	}
	return &resumed{old: io.NewSectionReader(part.file, 0, part.have), rest: rest, part: part}, part, nil
}

// trimPartials deletes what no pull is at: what is old, and the oldest beyond limit bytes.
func (s *Store) trimPartials(limit int64) {
	type kept struct {
		path string
		size int64
		time time.Time
	}
	entries, err := os.ReadDir(s.path("partial"))
	if err != nil {
		return
	}
	var all []kept
	for _, e := range entries {
		st, err := e.Info()
		if err == nil {
			all = append(all, kept{s.path("partial", e.Name()), st.Size(), st.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return b.time.Compare(a.time) })
	var sum int64
	for _, k := range all {
		sum += k.size
		if sum <= limit && time.Since(k.time) < maxKeptAge {
			continue
		}
		f, err := os.Open(k.path)
		if err != nil {
			continue
		}
		if tryLock(f) == nil {
			_ = os.Remove(k.path)
			sum -= k.size
		}
		_ = f.Close()
	}
}
