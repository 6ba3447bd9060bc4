package device

import (
	"context"
	"time"

	"pangaea/device/nvml"
)

// xidEvent is an Xid that a GPU reported.
type xidEvent struct {
	uuid string
	xid  uint64
	at   time.Time
}

// watcher waits for one GPU's Xids. It ends with its context, or when the driver no longer answers it.
type watcher struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// watchFor is how long one wait for events lasts. None can be cut short, and the library can be closed only between them;
// each end costs some 0.2 ms, of every GPU.
const watchFor = 5 * time.Second

// watch starts a watcher for the GPU unless one runs.
func (m *monitor) watch(ctx context.Context, g *gpu) {
	if m.lookOnly {
		return
	}
	w, ok := m.watchers[g.uuid]
	if ok {
		select {
		case <-w.done:
		default:
			return
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	w = &watcher{cancel: cancel, done: make(chan struct{})}
	m.watchers[g.uuid] = w
	uuid, index, epoch := g.uuid, g.index, m.session.current
	go func() {
		defer close(w.done)
		defer cancel()
		m.session.during(epoch, func() { m.listen(ctx, uuid, index) })
	}()
}

// listen holds a handle of its own, since handles belong to the goroutine that made them.
func (m *monitor) listen(ctx context.Context, uuid string, index int) {
	var trace nvml.Trace
	device, err := m.session.lib.Device(index, &trace)
	if err != nil {
		return
	}
	there, err := device.UUID()
	if err != nil || there != uuid {
		return // the driver's list moved; the next round starts another
	}
	watch, err := device.Watch()
	if err != nil {
		m.log.Debug("cannot watch for Xids", "gpu", uuid, "error", err)
		// Some GPUs cannot; there is no hurry to ask again.
		sleep(ctx, time.Minute)
		return
	}
	defer watch.Close()
	for ctx.Err() == nil {
		xid, ok, err := watch.Next(uint32(m.watchFor.Milliseconds()))
		if err != nil {
			sleep(ctx, time.Second)
			return
		}
		if ok {
			select {
			case m.xids <- xidEvent{uuid: uuid, xid: xid, at: time.Now()}:
			case <-ctx.Done():
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (m *monitor) note(e xidEvent) {
	m.log.Warn("Xid", "gpu", e.uuid, "xid", e.xid)
	g, ok := m.gpus[e.uuid]
	if ok {
		g.lastXid = e.xid
		g.judge.Xid(e.xid, e.at)
	}
}

func (m *monitor) drainXids() {
	for {
		select {
		case e := <-m.xids:
			m.note(e)
		default:
			return
		}
	}
}

// stopWatchers tells all to end. They do within one wait for events; until then the library stays open.
func (m *monitor) stopWatchers() {
	for _, w := range m.watchers {
		w.cancel()
	}
}
