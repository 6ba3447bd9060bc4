package gateway

import (
	"context"
	"sync"
)

// queue holds the jobs that something happened to. A job is in it once, and is given to one worker at a time: news
// that comes while it is worked on brings it back afterwards.
type queue struct {
	mu      sync.Mutex
	waiting []jobKey
	queued  map[jobKey]bool
	busy    map[jobKey]bool
	again   map[jobKey]bool
	wake    chan struct{}
}

func newQueue() *queue {
	return &queue{queued: map[jobKey]bool{}, busy: map[jobKey]bool{}, again: map[jobKey]bool{}, wake: make(chan struct{}, 1)}
}

func (q *queue) add(key jobKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy[key] {
		q.again[key] = true
		return
	}
	if !q.queued[key] {
		q.queued[key] = true
		q.waiting = append(q.waiting, key)
	}
	q.signal()
}

// signal wakes one worker, which wakes the next if there is more. The caller holds mu.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (jobKey, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return jobKey{}, false
	}
	key := q.waiting[0]
	q.waiting = q.waiting[1:]
	delete(q.queued, key)
	q.busy[key] = true
	if len(q.waiting) > 0 {
		q.signal()
	}
	return key, true
}

func (q *queue) done(key jobKey) {
	q.mu.Lock()
	again := q.again[key]
	delete(q.again, key)
	delete(q.busy, key)
	q.mu.Unlock()
	if again {
		q.add(key)
	}
}

// clear forgets what waits; what is being worked on finishes.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = nil
	clear(q.queued)
	clear(q.again)
}

// run works on the queue's jobs until the context ends.
func (q *queue) run(ctx context.Context, do func(context.Context, jobKey)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		for key, ok := q.take(); ok && ctx.Err() == nil; key, ok = q.take() {
			do(ctx, key)
			q.done(key)
		}
	}
}
