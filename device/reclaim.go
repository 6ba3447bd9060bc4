package device

import (
	"context"
	"time"

	"pangaea/device/evict"
)

// evictAgain is how long an eviction has before it is asked for again: Nomad or its servers may have been away.
const evictAgain = 10 * time.Second

// eviction is a GPU that its owner wants back, by all the IDs that Nomad knows it under.
type eviction struct {
	uuid   string
	ids    []string
	reason string
}

// reclaim asks for the tasks on a claimed GPU to be stopped, if the owner configured it.
func (m *monitor) reclaim(g *gpu, now time.Time) {
	if !m.settings.evict || g.claimed == "" || now.Sub(g.evictedAt) < evictAgain {
		return
	}
	var ids []string
	for _, u := range replicate(g.units(nil), m.settings.replicas) {
		ids = append(ids, u.id)
	}
	select {
	case m.evictions <- eviction{uuid: g.uuid, ids: ids, reason: g.claimed}:
		g.evictedAt = now
	default: // the one before is still being carried out; the next round asks again
	}
}

// evict carries evictions out until the context ends.
func (m *monitor) evict(ctx context.Context, nomad evict.Nomad) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-m.evictions:
			bounded, cancel := context.WithTimeout(ctx, evictAgain)
			stopped, err := nomad.Stop(bounded, e.ids)
			cancel()
			if err != nil {
				m.log.Error("cannot give a GPU back to its owner", "gpu", e.uuid, "error", err)
			}
			for _, id := range stopped {
				m.log.Info("allocation stopped for the GPU's owner", "gpu", e.uuid, "alloc_id", id, "reason", e.reason)
			}
		}
	}
}
