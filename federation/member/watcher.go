package member

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// refreshEvery is how often the cluster is read though nothing was heard of it.
	refreshEvery = 10 * time.Second
	// refreshGap is the shortest pause between two reads; what happens meanwhile is seen by the second.
	refreshGap = 40 * time.Millisecond
)

// watcher keeps the newest snapshot and wakes those who wait for the next. Run owns it.
type watcher struct {
	fetcher *fetcher
	logger  hclog.Logger
	poke    chan struct{}

	mu      sync.Mutex
	current *snapshot
	changed chan struct{} // closed when current is replaced
	down    bool          // the last read failed: what is known may be old
}

func newWatcher(f *fetcher, logger hclog.Logger) *watcher {
	return &watcher{fetcher: f, logger: logger, poke: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Current returns the newest snapshot, nil before the first or while the cluster does not answer, and a channel that
// is closed when there is news.
func (w *watcher) Current() (*snapshot, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, w.changed
	}
	return w.current, w.changed
}

// Refresh asks for a new snapshot soon.
func (w *watcher) Refresh() {
	select {
	case w.poke <- struct{}{}:
	default: // one is due already
	}
}

// wake tells everybody that something they compute from the snapshot has changed though the cluster did not.
func (w *watcher) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// Run reads the cluster at once, when it tells of an event, and now and then, until the context ends.
func (w *watcher) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { w.listen(ctx) })
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	told := ""
	for ctx.Err() == nil {
		started := time.Now()
		next, err := w.fetcher.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			w.logger.Warn("cannot read the cluster, trying again", "error", err)
		}
		if err == nil {
			told = ""
		}
		w.publish(next, err != nil)
		// A large cluster is slow to read: leave it three times as long in peace.
		pause(ctx, max(refreshGap, 3*time.Since(started)))
		if err != nil {
			pause(ctx, time.Second)
			continue
		}
		select {
		case <-ctx.Done():
		case <-w.poke:
		case <-ticker.C:
		}
	}
}

func (w *watcher) publish(next *snapshot, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	if next != nil {
		w.current = next
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// listen turns every event of the cluster into a refresh, and opens the stream anew when it ends.
func (w *watcher) listen(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := w.fetcher.cluster.Events(ctx)
		if err != nil {
			pause(ctx, time.Second)
			continue
		}
		for batch := range events {
			if batch.Err == nil && len(batch.Events) > 0 {
				w.Refresh()
			}
		}
		w.Refresh() // whatever happened while nobody listened
		pause(ctx, 250*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
