package member

import (
	"sync"
	"time"

	"pangaea/federation/pool"
)

// reservation is room held for a placement until its allocations are there or its deadline passes.
type reservation struct {
	key      jobKey // in the member's words
	ref      pool.PlacementRef
	groups   map[string]held
	deadline time.Time
}

type held struct {
	demand demand
	count  int
}

// reservations is the agent's book of held room. It lives in memory alone: after a restart the gateway's commits find
// the room or Nomad queues the allocations.
type reservations struct {
	now  func() time.Time
	mu   sync.Mutex
	book map[jobKey]reservation
}

func newReservations(now func() time.Time) *reservations {
	return &reservations{now: now, book: map[jobKey]reservation{}}
}

// try holds room for a reservation if what is left after the others suffices. A newer one for the same job replaces
// the older.
func (b *reservations) try(s *snapshot, want reservation) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.book[want.key]; ok && old.ref.Epoch > want.ref.Epoch && b.now().Before(old.deadline) {
		return false
	}
	list := rooms(s)
	b.deduct(s, list, want.key)
	for name, group := range want.groups {
		if fill(list, group.demand, group.count-running(s, want.key, name)) > 0 {
			return false
		}
	}
	b.book[want.key] = want
	return true
}

// release gives a placement's room back, unless a newer epoch holds it.
func (b *reservations) release(key jobKey, epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if held, ok := b.book[key]; ok && held.ref.Epoch <= epoch {
		delete(b.book, key)
	}
}

// extend keeps a committed placement's room until its allocations had time to appear.
func (b *reservations) extend(key jobKey, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if held, ok := b.book[key]; ok && held.deadline.Before(until) {
		held.deadline = until
		b.book[key] = held
	}
}

// apply takes all held room out of the rooms.
func (b *reservations) apply(s *snapshot, list []*room) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deduct(s, list, jobKey{})
}

// deduct takes held room out of the rooms, but for one job's. What a placement's living allocations already use is
// not held a second time.
func (b *reservations) deduct(s *snapshot, list []*room, except jobKey) {
	for key, held := range b.book {
		if b.now().After(held.deadline) {
			delete(b.book, key)
			continue
		}
		if key == except {
			continue
		}
		for name, group := range held.groups {
			fill(list, group.demand, group.count-running(s, key, name))
		}
	}
}

// next is when the earliest reservation ends, false if there is none.
func (b *reservations) next() (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var first time.Time
	for _, held := range b.book {
		if first.IsZero() || held.deadline.Before(first) {
			first = held.deadline
		}
	}
	return first, !first.IsZero()
}

func running(s *snapshot, key jobKey, group string) int {
	count := 0
	for _, a := range s.allocations {
		if a.JobID == key.id && a.Namespace == key.namespace && a.TaskGroup == group && alive(a) {
			count++
		}
	}
	return count
}
