package image

import (
	"context"
	"sync"
)

// flights lets concurrent callers share one run of the same work. Unlike x/sync/singleflight's, the work
// belongs to nobody: it goes on while at least one caller waits and is cancelled with the last.
type flights[T any] struct {
	base context.Context //nolint:containedctx // the store's lifetime, which the work is bound to
	wg   *sync.WaitGroup

	mu  sync.Mutex
	all map[string]*flight[T]
}

type flight[T any] struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int
	value   T
	err     error
}

func newFlights[T any](base context.Context, wg *sync.WaitGroup) *flights[T] {
	return &flights[T]{base: base, wg: wg, all: map[string]*flight[T]{}}
}

// do waits for the work of that key, starting it if nobody has; led tells whether it did.
func (f *flights[T]) do(ctx context.Context, key string, work func(context.Context) (T, error)) (value T, led bool, err error) {
	fl, led := f.join(key, work)
	select {
	case <-fl.done:
		f.leave(key, fl)
		return fl.value, led, fl.err
	case <-ctx.Done():
		f.leave(key, fl)
		return value, led, context.Cause(ctx)
	}
}

func (f *flights[T]) join(key string, work func(context.Context) (T, error)) (*flight[T], bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.all[key]; ok {
		fl.waiters++
		return fl, false
	}
	ctx, cancel := context.WithCancel(f.base)
	fl := &flight[T]{done: make(chan struct{}), cancel: cancel, waiters: 1}
	f.all[key] = fl
	f.wg.Go(func() {
		defer cancel()
		fl.value, fl.err = work(ctx)
		f.mu.Lock()
		f.drop(key, fl)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, true
}

// leave cancels the work when nobody waits any more; whoever comes next starts anew rather than join it.
func (f *flights[T]) leave(key string, fl *flight[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if fl.waiters == 0 {
		fl.cancel()
		f.drop(key, fl)
	}
}

func (f *flights[T]) drop(key string, fl *flight[T]) {
	if f.all[key] == fl {
		delete(f.all, key)
	}
}
