package gateway

import (
	"sync/atomic"
	"time"
)

// index counts the pool's changes the way Nomad's raft index does for X-Nomad-Index: at least 1, never going back.
// Members' indexes are not comparable with each other, so the pool needs its own. It starts from the clock, in
// milliseconds, so that it goes on rising over a restart or a change of leader without being stored: changes would have
// to come faster than one a millisecond, for the gateway's whole life, to run ahead of the clock. Should clocks of
// gateways differ by more than a failover takes, observe lifts the index above everything that was stored.
type index struct {
	last  atomic.Uint64
	clock func() time.Time
}

func newIndex(clock func() time.Time) *index {
	i := &index{clock: clock}
	i.next()
	return i
}

// next returns an index that was never returned before.
func (i *index) next() uint64 {
	for {
		last := i.last.Load()
		next := max(last+1, uint64(max(i.clock().UnixMilli(), 1)))
		if i.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// current returns the index of the last change.
func (i *index) current() uint64 { return i.last.Load() }

// observe makes sure that later indexes are above one that was stored by someone else.
func (i *index) observe(seen uint64) {
	for {
		last := i.last.Load()
		if seen <= last || i.last.CompareAndSwap(last, seen) {
			return
		}
	}
}
