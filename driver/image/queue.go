package image

import (
	"context"
	"sync"
)

// imagesPerTenant bounds the images that one tenant has under way. Each may take twice 128 MiB and more for as long as its
// registry likes: a tenant of many tasks, with a slow registry of his own, would have all of the host's memory.
const imagesPerTenant = 4

// queues has the pulls of each tenant take turns. They wait for none of another's.
type queues struct {
	mu  sync.Mutex
	all map[string]*queue
}

// queue is what one tenant has under way: how many pulls, by image.
type queue struct {
	under   map[string]int
	waiting int
	changed chan struct{} // closed when an image is done with
}

// enter waits until the tenant may pull an image, which lasts until leave is called.
func (q *queues) enter(ctx context.Context, tenant, image string) (leave func(), err error) {
	for {
		changed := q.admit(tenant, image)
		if changed == nil {
			return func() { q.leave(tenant, image) }, nil
		}
		select {
		case <-changed:
			q.stopWaiting(tenant)
		case <-ctx.Done():
			q.stopWaiting(tenant)
			return nil, context.Cause(ctx)
		}
	}
}

// admit lets a pull in, or counts it among those that wait and tells for what.
func (q *queues) admit(tenant, image string) (changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.all[tenant]
	if own == nil {
		own = &queue{under: map[string]int{}, changed: make(chan struct{})}
		q.all[tenant] = own
	}
	if own.under[image] == 0 && len(own.under) >= imagesPerTenant {
		own.waiting++
		return own.changed
	}
	own.under[image]++
	return nil
}

func (q *queues) leave(tenant, image string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.all[tenant]
	own.under[image]--
	if own.under[image] == 0 {
		delete(own.under, image)
		close(own.changed)
		own.changed = make(chan struct{})
	}
	q.tidy(tenant, own)
}

func (q *queues) stopWaiting(tenant string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.all[tenant]
	own.waiting--
	q.tidy(tenant, own)
}

// tidy forgets a tenant who has nothing under way. The caller holds mu.
func (q *queues) tidy(tenant string, own *queue) {
	if len(own.under) == 0 && own.waiting == 0 {
		delete(q.all, tenant)
	}
}
