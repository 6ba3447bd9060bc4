package device

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"pangaea/device/control"
	"pangaea/device/evict"
)

// evictAgain is how long an eviction has before it is asked for again: Nomad or its servers may have been away.
const evictAgain = 10 * time.Second

// lookAgain is how soon it is asked again whether the tasks have ended.
const lookAgain = 2 * time.Second

// eviction is a GPU that its owner wants back.
type eviction struct {
	uuid   string
	cards  []string // it, or the instances of it
	reason string
	at     time.Time
	answer *atomic.Pointer[answer] // nil until Nomad has answered, or has not
}

// answer is what came of asking Nomad.
type answer struct {
	problem string         // why it could not be carried out
	tasks   []control.Task // that have the GPU until they have ended, whichever driver runs them
}

func (e *eviction) latest() answer {
	if e == nil {
		return answer{}
	}
	a := e.answer.Load()
	if a == nil {
		return answer{}
	}
	return *a
}

func (e *eviction) problem() string         { return e.latest().problem }
func (e *eviction) holders() []control.Task { return e.latest().tasks }

// again says when to ask anew: soon while there are tasks to wait for.
func (e *eviction) again(now time.Time) bool {
	wait := evictAgain
	if len(e.holders()) > 0 {
		wait = lookAgain
	}
	return now.Sub(e.at) >= wait
}

// explicit is the owner's word that the tasks on his GPU are to be stopped.
func (g *gpu) explicit() bool { return g.reclaim != nil && !g.reclaim.Keep }

// asking says that it is not known yet whether Nomad knows of tasks on a GPU that its owner reclaimed.
func (g *gpu) asking() bool {
	return g.explicit() && (g.eviction == nil || g.eviction.answer.Load() == nil)
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
	if !g.explicit() && (!m.settings.evict || g.claimed == "") {
		g.eviction = nil
		return
	}
	if g.eviction != nil && !g.eviction.again(now) {
		return
	}
	e := eviction{uuid: g.uuid, reason: g.wanted(), at: now, answer: new(atomic.Pointer[answer])}
	for _, id := range g.ids(m.settings) {
		e.cards = append(e.cards, card(id))
	}
	e.cards = slices.Compact(e.cards)
	if g.eviction != nil {
		e.answer = g.eviction.answer
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
			m.carryOut(bounded, nomad, e)
			cancel()
		}
	}
}

// carryOut asks Nomad to stop the tasks that have a GPU, and notes who they are.
func (m *monitor) carryOut(ctx context.Context, nomad evict.Nomad, e eviction) {
	holders, stopped, err := nomad.Stop(ctx, e.cards)
	var a answer
	if err != nil {
		m.log.Error("cannot give a GPU back to its owner", "gpu", e.uuid, "error", err)
		a.problem = err.Error()
	}
	if holders == nil {
		a.tasks = e.holders() // nothing is known that was not before
	}
	for _, h := range holders {
		a.tasks = append(a.tasks, control.Task{AllocID: h.AllocID, Task: h.Task, Namespace: h.Namespace, JobID: h.JobID})
	}
	e.answer.Store(&a)
	for _, id := range stopped {
		m.log.Info("allocation stopped for the GPU's owner", "gpu", e.uuid, "alloc_id", id, "reason", e.reason)
	}
	select {
	case m.pokes <- struct{}{}:
	default:
	}
}
