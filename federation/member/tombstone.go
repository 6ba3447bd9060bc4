package member

import (
	"sync"

	"pangaea/federation/pool"
)

// tombstones remember what the pool has stopped since the agent started, so that a commit that was long on its way does
// not undo a stop. After a restart the first exchange with a gateway does their work.
type tombstones struct {
	mu         sync.Mutex
	jobs       map[jobKey]uint64 // highest epoch of a job that was stopped
	placements map[string]uint64 // highest epoch of a placement that was stopped, by its ID
}

// maxTombstones bounds the memory; then all are forgotten at once.
const maxTombstones = 10_000

// add remembers a stop. A purged job that is run again begins with epoch 1 and a new placement, so after a purge only
// the placement counts.
func (t *tombstones) add(key jobKey, request pool.StopRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.jobs == nil || len(t.placements) >= maxTombstones {
		t.jobs, t.placements = map[jobKey]uint64{}, map[string]uint64{}
	}
	t.placements[request.PlacementID] = max(t.placements[request.PlacementID], request.Epoch)
	if request.Purge {
		delete(t.jobs, key)
		return
	}
	t.jobs[key] = max(t.jobs[key], request.Epoch)
}

// refuses tells whether a commit is older than a stop.
func (t *tombstones) refuses(key jobKey, ref pool.PlacementRef) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[key] >= ref.Epoch || t.placements[ref.PlacementID] >= ref.Epoch
}
