package device

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/device/control"
	"pangaea/device/health"
	"pangaea/device/holder"
	"pangaea/device/nvml"
	"pangaea/device/owner"
)

const (
	// traitsEvery is how often limits are read again; they change when an owner sets a power cap or a mode.
	traitsEvery = 10 * time.Second
	// slowEvery is how old counters in statistics may be that change rarely or matter slowly.
	slowEvery = 10 * time.Second
	// patience is how long a round waits for a GPU that is slow, before the others are published without it.
	patience = time.Second
	// reopenEvery is how often the library is opened anew because no GPU answers: its handles may be of another driver.
	reopenEvery = 30 * time.Second
)

// monitor looks at all GPUs, round after round, and publishes snapshots. run owns all fields but the published snapshot.
type monitor struct {
	settings settings
	log      hclog.Logger
	session  *session
	host     owner.Host
	sys      string // "/sys"

	slots    []*slot
	gpus     map[string]*gpu // by UUID
	watchers map[string]*watcher
	xids     chan xidEvent

	evictions chan eviction
	strays    []unit // indexes whose UUID was never known
	machine   nvml.Machine
	reclaims  map[string]control.Reclaim
	holders   []holder.Task
	unread    string // what of them could not be read, as it was logged
	problem   string // why no GPU can be asked
	reopened  time.Time
	places    map[string]place // of an earlier life too
	pokes     chan struct{}    // asks for a round now
	slowEvery time.Duration    // how often statistics ask for what changes slowly
	watchFor  time.Duration    // how long one wait for events lasts
	stagger   time.Duration    // how long a GPU may keep the others from being asked
	patience  time.Duration    // how long all may keep a round or statistics
	after     after            // measures both
	lookOnly  bool             // keeps nothing and listens to nothing
	shares    *mpsShares       // nil without MPS

	published atomic.Pointer[snapshot]
}

func newMonitor(s settings, log hclog.Logger, restart func(string)) *monitor {
	m := &monitor{
		settings: s, log: log, host: owner.Host{Proc: "/proc"}, sys: "/sys", gpus: make(map[string]*gpu),
		slowEvery: slowEvery, watchFor: watchFor, stagger: stagger, patience: patience, after: time.After, places: make(map[string]place), pokes: make(chan struct{}, 1),
		watchers: make(map[string]*watcher), xids: make(chan xidEvent, 64), evictions: make(chan eviction, 16),
	}
	m.session = &session{lib: nvml.New(s.libraryPath), log: log, restart: restart, reply: make(chan sessionReply, 1)}
	m.shares = newMPSShares(s)
	m.published.Store(&snapshot{changed: make(chan struct{})})
	return m
}

// run looks until the context ends.
func (m *monitor) run(ctx context.Context) {
	m.start(ctx)
	ticker := time.NewTicker(m.settings.period)
	defer ticker.Stop()
	for {
		m.round(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case e := <-m.xids:
			m.note(e)
		case <-m.pokes:
		case <-ticker.C:
		}
	}
}

// start makes the monitor ready for its rounds.
func (m *monitor) start(ctx context.Context) {
	m.session.worker = startWorker(ctx, m.after)
	err := m.settings.control.Recall("places", &m.places)
	if err != nil {
		m.log.Warn("the GPUs' groups may be named otherwise than before", "error", err)
	}
}

// round looks once at everything and publishes what it found.
func (m *monitor) round(ctx context.Context, now time.Time) {
	began := time.Now()
	m.drainXids()
	m.heed()
	m.meetHolders()
	if m.shares != nil {
		m.shares.look(now)
	}
	machine, ok, fresh, reason := m.session.machine(m.patience, m.settings.hangAfter, now)
	if fresh {
		m.renew()
	}
	switch {
	case reason != "":
		m.allBroken(reason)
	case ok:
		m.machine = machine
		m.lookAtAll(ctx, machine.Count, now)
	} // else the library is slow: nothing is known that was not before
	m.problem = reason
	if m.shares != nil {
		m.shares.tell(ctx, now, m.pokes)
	}
	for _, g := range m.gpus {
		m.reclaim(g, now)
	}
	m.locate()
	m.publish(began)
}

// renew forgets what was bound to the library as it was opened, and to the driver if that was loaded anew.
func (m *monitor) renew() {
	for _, g := range m.gpus {
		if m.session.gone {
			g.judge.Renewed()
		}
		g.live, g.traitsAt, g.samplers = false, time.Time{}, make(map[string]*nvml.Sampler)
	}
	m.session.gone = false
	m.stopWatchers()
}

func (m *monitor) allBroken(reason string) {
	for _, g := range m.gpus {
		g.broken(reason)
		g.live = false
	}
	for i := range m.strays {
		m.strays[i].reason = reason
	}
	m.stopWatchers()
}

func (m *monitor) lookAtAll(ctx context.Context, count int, now time.Time) {
	for len(m.slots) < count {
		m.slots = append(m.slots, &slot{worker: startWorker(ctx, m.after), result: make(chan probe, 1)})
	}
	looks := m.look(count, now)
	seen, found := make(map[string]bool), make(map[string]bool)
	m.strays = nil
	var failed []probe
	for i, s := range m.slots[:count] {
		p := looks[i]
		switch {
		case p == nil:
			m.late(i, s, now, seen)
		case p.err != nil:
			failed = append(failed, *p)
		case found[p.id.UUID]:
			m.gpus[p.id.UUID].broken("the driver gives two GPUs the UUID " + p.id.UUID + ": which is which cannot be told")
		default:
			seen[p.id.UUID], found[p.id.UUID] = true, true
			m.found(ctx, *p, now)
		}
	}
	m.unnamed(failed, seen)
	m.missing(seen)
	if len(found) > 0 {
		m.session.broken = false // its handles work
	}
	if len(found) == 0 && len(failed) > 0 && now.Sub(m.reopened) >= reopenEvery {
		m.reopened, m.session.broken = now, true
		m.stopWatchers()
	}
}

// look asks one GPU after another, each as soon as the one before has answered or is slow to, and waits for those that are.
func (m *monitor) look(count int, now time.Time) []*probe {
	looks := make([]*probe, count)
	fetch := func(i int, patience time.Duration) {
		p, ok := m.slots[i].fetch(patience)
		if ok {
			looks[i] = &p
		}
	}
	for i, s := range m.slots[:count] {
		s.begin(m.session, i, m.question(i, now), m.stagger)
		fetch(i, m.stagger)
	}
	deadline := time.Now().Add(m.patience)
	for i := range looks {
		if looks[i] == nil {
			fetch(i, time.Until(deadline))
		}
	}
	return looks
}

// question is what is to be found out of the GPU at an index.
func (m *monitor) question(index int, now time.Time) question {
	q := question{computeMode: m.shares != nil}
	for _, g := range m.gpus {
		if g.index == index {
			q.uuid, q.traits, q.mig, q.before = g.uuid, !g.settled || now.Sub(g.traitsAt) >= traitsEvery, g.mig, g.traits
			break
		}
	}
	return q
}

// found takes in a GPU that could be looked at.
func (m *monitor) found(ctx context.Context, p probe, now time.Time) {
	g, known := m.gpus[p.id.UUID]
	if !known {
		g = &gpu{uuid: p.id.UUID, judge: health.Judge{Limits: m.settings.limits}, samplers: make(map[string]*nvml.Sampler)}
		m.gpus[p.id.UUID] = g
		m.log.Info("GPU found", "gpu", p.id.UUID, "name", p.id.Name.Value, "bus", p.id.BusID.Value)
	}
	was := g.verdict
	g.meet(p, now, m.sys, m.host.Proc)
	g.reclaim = m.reclaimOf(g.uuid)
	g.judgeProbe(p, m.settings, m.host, now)
	if m.shares != nil {
		m.shares.judge(g, p)
	}
	if known && was != g.verdict {
		m.log.Info("GPU health changed", "gpu", g.uuid, "healthy", g.verdict.Healthy, "reason", g.verdict.Reason)
	}
	m.watch(ctx, g)
}

// late is a slot whose look has not come back: the GPU there keeps its state until the call counts as hung.
func (m *monitor) late(index int, s *slot, now time.Time, seen map[string]bool) {
	reason := s.worker.hang(m.settings.hangAfter, now)
	known := false
	for _, g := range m.gpus {
		if g.index != index {
			continue
		}
		known = true
		seen[g.uuid] = true
		if reason != "" {
			g.broken(reason)
		}
	}
	if !known && reason != "" {
		m.stray(index, reason)
	}
}

// unnamed are indexes where the driver has a GPU that cannot say who it is: the known one that was there before and is
// nowhere else now, or one that was sick before this plugin ever saw it.
func (m *monitor) unnamed(failed []probe, seen map[string]bool) {
	for _, p := range failed {
		if !m.blame(p, seen) {
			m.stray(p.index, p.err.Error())
		}
	}
}

func (m *monitor) stray(index int, reason string) {
	m.strays = append(m.strays, unit{id: fmt.Sprintf("unknown-%d", index), name: unknownModel, index: index, reason: reason})
}

func (m *monitor) blame(p probe, seen map[string]bool) bool {
	for _, g := range m.gpus {
		if g.index == p.index && !seen[g.uuid] {
			seen[g.uuid] = true
			g.live = false
			g.broken(p.err.Error())
			return true
		}
	}
	return false
}

func (m *monitor) missing(seen map[string]bool) {
	for _, g := range m.gpus {
		if !seen[g.uuid] {
			g.broken("no longer listed by the driver: fallen off the bus or handed to a virtual machine")
			g.live, g.index = false, -1
		}
	}
}

// publish makes what is known now the snapshot that others see.
func (m *monitor) publish(began time.Time) {
	last := m.published.Load()
	next := &snapshot{round: last.round + 1, began: began, epoch: m.session.current, machine: m.machine, problem: m.problem, changed: make(chan struct{})}
	for _, g := range m.gpus {
		if !m.settings.ignored[g.uuid] {
			next.gpus = append(next.gpus, g.entry(m.settings, m.holders))
		}
		var w *worker
		if g.index >= 0 && g.index < len(m.slots) {
			w = m.slots[g.index].worker
		}
		for _, u := range g.units(w) {
			if !m.settings.ignored[u.id] && !m.settings.ignored[g.uuid] {
				next.units = append(next.units, u)
			}
		}
	}
	next.units = append(replicate(next.units, m.settings), m.strays...)
	attribute(next.units, m.holders)
	slices.SortFunc(next.gpus, func(a, b control.GPU) int { return strings.Compare(a.UUID, b.UUID) })
	slices.SortFunc(next.units, func(a, b unit) int { return strings.Compare(a.id, b.id) })
	m.published.Store(next)
	close(last.changed)
}
