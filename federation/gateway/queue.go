package gateway

import (
	"context"
	"sync"
)

// queue holds the jobs, or other things, that something happened to. Each is in it once, and is given to one worker at a
// time: news that comes while it is worked on brings it back afterwards.
type queue[K comparable] struct {
	mu      sync.Mutex
	waiting []K
	queued  map[K]bool
	busy    map[K]bool
	again   map[K]bool
	wake    chan struct{}
}

func newQueue[K comparable]() *queue[K] {
	return &queue[K]{queued: map[K]bool{}, busy: map[K]bool{}, again: map[K]bool{}, wake: make(chan struct{}, 1)}
}

func (q *queue[K]) add(key K) {
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
func (q *queue[K]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue[K]) take() (K, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		var none K
		return none, false
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

func (q *queue[K]) done(key K) {
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
func (q *queue[K]) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = nil
	clear(q.queued)
	clear(q.again)
}

// run works on the queue's things until the context ends.
func (q *queue[K]) run(ctx context.Context, do func(context.Context, K)) {
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
