package image

import (
	"io"
	"sync"
	"time"
)

// tracker adds up a pull's progress and tells its subscribers, each in turn, at most every interval.
type tracker struct {
	mu       sync.Mutex
	now      Progress
	subs     map[int]func(Progress)
	next     int
	lastSent time.Time
}

const progressInterval = 500 * time.Millisecond

// subscribe adds a listener; the returned function removes it and waits for a call in progress.
func (t *tracker) subscribe(f func(Progress)) func() {
	if f == nil {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.subs == nil {
		t.subs = map[int]func(Progress){}
	}
	id := t.next
	t.next++
	t.subs[id] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subs, id)
	}
}

func (t *tracker) update(always bool, change func(*Progress)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.now)
	if !always && time.Since(t.lastSent) < progressInterval {
		return
	}
	t.lastSent = time.Now()
	for _, f := range t.subs {
		f(t.now)
	}
}

// count makes the bytes read from r progress.
func (t *tracker) count(r io.ReadCloser) io.ReadCloser { return counted{ReadCloser: r, t: t} }

type counted struct {
	io.ReadCloser
	t *tracker
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.t.update(false, func(pr *Progress) { pr.Bytes += int64(n) })
	return n, err
}
