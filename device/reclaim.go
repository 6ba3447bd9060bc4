package device

import (
	"context"
	"sync/atomic"
	"time"

	"pangaea/device/control"
	"pangaea/device/evict"
)

// evictAgain is how long an eviction has before it is asked for again: Nomad or its servers may have been away.
const evictAgain = 10 * time.Second

// eviction is a GPU that its owner wants back, by all the IDs that Nomad knows it under.
type eviction struct {
	uuid   string
	ids    []string
	reason string
	at     time.Time
	failed *atomic.Value // why it could not be carried out
}

// heed takes in which GPUs their owner has reclaimed. What cannot be read is reclaimed.
func (m *monitor) heed() {
	all, err := m.settings.control.Reclaims()
	if err != nil {
		all = map[string]control.Reclaim{control.All: {Note: err.Error(), Keep: true}}
	}
	m.reclaims = all
}

// reclaimOf is the owner's word on one GPU, nil when there is none; what he said of this one counts before what he said of all.
func (m *monitor) reclaimOf(uuid string) *control.Reclaim {
	for _, name := range []string{uuid, control.All} {
		r, ok := m.reclaims[name]
		if ok {
			return &r
		}
	}
	return nil
}

// reclaim asks for the tasks on a claimed GPU to be stopped, if its owner configured it or said so.
func (m *monitor) reclaim(g *gpu, now time.Time) {
	g.reclaim = m.reclaimOf(g.uuid)
	explicit := g.reclaim != nil && !g.reclaim.Keep
	if !explicit && (!m.settings.evict || g.claimed == "") {
		g.eviction = nil
		return
	}
	if g.eviction != nil && now.Sub(g.eviction.at) < evictAgain {
		return
	}
	e := eviction{uuid: g.uuid, reason: g.wanted(), at: now, failed: new(atomic.Value)}
	e.ids = g.ids(m.settings.replicas)
	if g.eviction != nil {
		e.failed = g.eviction.failed
	}
	select {
	case m.evictions <- e:
		g.eviction = &e
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
			e.failed.Store("")
			if err != nil {
				m.log.Error("cannot give a GPU back to its owner", "gpu", e.uuid, "error", err)
				e.failed.Store(err.Error())
			}
			for _, id := range stopped {
				m.log.Info("allocation stopped for the GPU's owner", "gpu", e.uuid, "alloc_id", id, "reason", e.reason)
			}
		}
	}
}
