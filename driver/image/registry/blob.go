package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxResumes is how often a blob's stream may break without a byte of progress in between.
const maxResumes = 4

// Blob streams a blob of a known size. A stream that breaks or stalls is taken up where it ended; the
// reader fails only after several tries without progress. Its content is for the caller to verify: it
// is never more than size bytes, and io.EOF comes only after all of them.
func (r *Repo) Blob(ctx context.Context, digest string, size int64) (io.ReadCloser, error) {
	return r.BlobFrom(ctx, digest, size, 0)
}

// BlobFrom is Blob without the bytes before at.
func (r *Repo) BlobFrom(ctx context.Context, digest string, size, at int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, blobKey{}, true))
	b := &blob{repo: r, digest: digest, size: size, pos: at, ctx: ctx, cancel: cancel}
	if at >= size && size > 0 {
		return b, nil // all is here already
	}
	err := b.connect()
	if err != nil {
		cancel(err)
		return nil, err
	}
	return b, nil
}

type blob struct {
	repo   *Repo
	digest string
	size   int64
	ctx    context.Context //nolint:containedctx // io.Reader has no room for one, and Close cancels it
	cancel context.CancelCauseFunc

	body  io.ReadCloser
	alive *watchdog
	pos   int64
	tries int
}

// connect opens the stream at pos.
func (b *blob) connect() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	dog := newWatchdog(b.repo.stall, func() { cancel(ErrStalled) })
	resp, err := b.repo.get(ctx, "blobs/"+b.digest, b.pos, b.size)
	if err == nil && b.pos > 0 && !continues(resp, b.pos) {
		// The server ignores ranges: what we have already comes once more.
		_, err = io.CopyN(io.Discard, dog.reader(resp.Body), b.pos)
		if err != nil {
			_ = resp.Body.Close()
			err = cause(ctx, err)
		}
	}
	if err != nil {
		dog.stop()
		cancel(err)
		return err
	}
	b.alive, b.body = dog, resp.Body
	b.alive.onStop = func() { cancel(context.Canceled) }
	return nil
}

func continues(resp *http.Response, pos int64) bool {
	return resp.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", pos))
}

// Read gives the next bytes, reconnecting as needed.
func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.pos >= b.size {
			b.drop()
			return 0, io.EOF
		}
		n, err := b.readOnce(p[:min(int64(len(p)), b.size-b.pos)])
		if n > 0 {
			b.pos += int64(n)
			b.tries = 0
			return n, nil
		}
		err = b.resume(err)
		if err != nil {
			return 0, err
		}
	}
}

func (b *blob) readOnce(p []byte) (int, error) {
	if b.body == nil {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.alive.reader(b.body).Read(p)
	if n == 0 && err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if n == 0 && err != nil && b.alive.bitten() {
		err = ErrStalled
	}
	return n, err
}

// resume reconnects after why, with growing pauses, until it has no tries left.
func (b *blob) resume(why error) error {
	b.drop()
	for {
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		b.tries++
		if b.tries > maxResumes || IsFatal(why) {
			return fmt.Errorf("cannot read blob %.19s past byte %d of %d: %w", b.digest, b.pos, b.size, why)
		}
		b.repo.log.Debug("resuming a broken download", "blob", b.digest, "at", b.pos, "size", b.size, "error", why)
		pause := time.NewTimer(time.Duration(1<<b.tries) * 50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-b.ctx.Done():
			pause.Stop()
			return context.Cause(b.ctx)
		}
		why = b.connect()
		if why == nil {
			return nil
		}
	}
}

func (b *blob) drop() {
	if b.body != nil {
		_ = b.body.Close()
		b.alive.stop()
		b.body = nil
	}
}

// Close ends the stream; it may be called while Read runs, which then returns.
func (b *blob) Close() error {
	b.cancel(errors.New("download ended"))
	return nil
}

// watchdog calls bite when no data came for a while.
type watchdog struct {
	every  time.Duration
	timer  *time.Timer
	onStop func()
	mu     sync.Mutex
	bit    bool
}

func newWatchdog(every time.Duration, bite func()) *watchdog {
	w := &watchdog{every: every}
	w.timer = time.AfterFunc(every, func() {
		w.mu.Lock()
		w.bit = true
		w.mu.Unlock()
		bite()
	})
	return w
}

func (w *watchdog) bitten() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bit
}

func (w *watchdog) stop() {
	w.timer.Stop()
	if w.onStop != nil {
		w.onStop()
	}
}

// reader feeds the watchdog with what comes from r. The clock stands still between reads: a caller that
// is slow to unpack is no stall.
func (w *watchdog) reader(r io.Reader) io.Reader { return fed{w: w, r: r} }

type fed struct {
	w *watchdog
	r io.Reader
}

func (f fed) Read(p []byte) (int, error) {
	f.w.timer.Reset(f.w.every)
	n, err := f.r.Read(p)
	f.w.timer.Stop()
	return n, err
}
