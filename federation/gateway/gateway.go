package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// Gateway is one running gateway. Its memory is a cache: see the package comment for what is kept where.
type Gateway struct {
	settings settings
	store    Store
	logger   hclog.Logger
	index    *index
	work     *queue[jobKey]
	look     *queue[string] // members whose nodes are to be looked at
	started  time.Time

	dispatching sync.Mutex // held over a dispatch with an idempotency token

	mu      sync.Mutex
	members map[string]*member
	jobs    map[jobKey]*job
	evals   *evalTable
	nodes   map[string]string // node ID to the alias of its member
	pulse   chan struct{}     // closed and replaced at every change
	leading bool
	fence   state.Fence
	leader  state.GatewayRecord // who leads, while this gateway does not
	problem string              // why nobody may lead, such as a Consul that is away
}

// jobKey names a pool job.
type jobKey struct{ namespace, id string }

// String is for logs.
func (k jobKey) String() string { return k.namespace + "/" + k.id }

func newGateway(s settings, store Store, logger hclog.Logger) *Gateway {
	return &Gateway{
		settings: s, store: store, logger: logger, index: newIndex(s.now), work: newQueue[jobKey](), look: newQueue[string](), started: s.now(),
		members: map[string]*member{}, jobs: map[jobKey]*job{}, evals: newEvalTable(), nodes: map[string]string{},
		pulse: make(chan struct{}),
	}
}

// changed gives the change that was just made its index and wakes everybody who waits for one. The caller holds mu.
func (g *Gateway) changed() uint64 {
	next := g.index.next()
	close(g.pulse)
	g.pulse = make(chan struct{})
	return next
}

// touch marks a job as changed. The caller holds mu.
func (g *Gateway) touch(j *job) {
	j.index = g.changed()
}

// lead loads the pool's state and takes up the leader's work until the context ends.
func (g *Gateway) lead(ctx context.Context, fence state.Fence) error {
	err := g.load(ctx, fence)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	for range g.settings.workers {
		group.Go(func() { g.work.run(ctx, g.reconcile) })
	}
	for range nodeLookers {
		group.Go(func() { g.look.run(ctx, g.lookAtNodes) })
	}
	group.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(2 * g.settings.store.SessionTTL):
			g.recheck(ctx)
		}
	})
	group.Wait()
	g.stepDown()
	return ctx.Err()
}

// recheck looks at all jobs once more after everybody must know who leads: until then a deposed leader may have taken
// a job from a user and written it to Consul, unseen by this gateway, which had read them all before.
func (g *Gateway) recheck(ctx context.Context) {
	jobs, err := g.store.ListJobs(ctx, "*")
	if err != nil {
		g.logger.Warn("cannot look for jobs that a former leader took", "error", err)
		return
	}
	for _, entry := range jobs {
		if entry.Value.Job == nil {
			continue
		}
		entry.Value.Job.Canonicalize()
		key := jobKey{*entry.Value.Job.Namespace, *entry.Value.Job.ID}
		g.mu.Lock()
		j := g.jobs[key]
		known := j != nil && j.known && j.consulIndex >= entry.Index
		g.mu.Unlock()
		if known {
			continue
		}
		err = g.refresh(ctx, key) // reads it again: it may have been purged since the list was made
		if err != nil {
			g.logger.Warn("cannot read a job that a former leader took", "job", key.String(), "error", err)
		}
	}
}

func (g *Gateway) load(ctx context.Context, fence state.Fence) error {
	jobs, err := g.store.ListJobs(ctx, "*")
	if err != nil {
		return fmt.Errorf("cannot take up the lead: %w", err)
	}
	sets, err := g.store.ListPlacements(ctx)
	if err != nil {
		return fmt.Errorf("cannot take up the lead: %w", err)
	}
	members, err := g.store.ListMembers(ctx)
	if err != nil {
		return fmt.Errorf("cannot take up the lead: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.jobs, g.evals = map[jobKey]*job{}, newEvalTable()
	for _, entry := range jobs {
		g.adopt(entry)
	}
	for _, entry := range sets {
		key := jobKey{entry.Value.Namespace, entry.Value.JobID}
		j := g.jobs[key]
		if j == nil { // purged, but its placements were not stopped yet
			j = newJob(key)
			g.jobs[key] = j
		}
		j.set, j.setIndex = entry.Value, entry.Index
	}
	for _, entry := range members {
		g.member(entry.Value.Alias).known(entry.Value)
	}
	now := g.settings.now()
	for _, m := range g.members { // nobody is lost for a time in which nobody led who could have heard it
		m.heard, m.synced, m.offer, m.free, m.state = now, false, nil, nil, pool.MemberSuspect
	}
	g.fence, g.leading = fence, true
	for key, j := range g.jobs {
		g.restoreEval(j)
		g.work.add(key)
	}
	g.changed()
	g.logger.Info("leading the pool", "jobs", len(g.jobs))
	return nil
}

// adopt takes a job from Consul into memory. The caller holds mu.
func (g *Gateway) adopt(entry state.Job) {
	record := entry.Value
	if record.Job == nil {
		return
	}
	record.Job.Canonicalize()
	key := jobKey{*record.Job.Namespace, *record.Job.ID}
	j := g.jobs[key]
	if j == nil {
		j = newJob(key)
		g.jobs[key] = j
	}
	if j.consulIndex > entry.Index { // read before a write that this gateway has made since
		return
	}
	j.record, j.consulIndex, j.known = record, entry.Index, true
	g.index.observe(max(deref(record.Job.ModifyIndex), deref(record.Job.JobModifyIndex)))
}

func (g *Gateway) stepDown() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leading, g.fence = false, state.Fence{}
	g.jobs, g.evals = map[jobKey]*job{}, newEvalTable()
	g.work.clear()
	g.look.clear()
	g.changed()
	g.logger.Info("no longer leading the pool")
}

// tick moves the members' clocks on and finds what their silence has made lost.
func (g *Gateway) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.settings.now()
	for _, m := range g.members {
		g.advance(m, now)
		g.ageNodes(m, now)
	}
	if !g.leading {
		return
	}
	for key, j := range g.jobs {
		if !j.retryAt.IsZero() && !now.Before(j.retryAt) {
			j.retryAt = time.Time{}
			g.work.add(key)
		}
		if j.blockedID != "" && len(j.excluded) > 0 && now.Sub(j.excludedAt) >= excludeFor {
			clear(j.excluded)
			g.work.add(key)
		}
		if !j.record.Stopped && !now.Before(j.heldUntil) && g.hasLost(j, now) {
			g.work.add(key)
		}
	}
}

// excludeFor is how long a member's "no" to a job that waits for room is remembered, unless its offer changes before.
const excludeFor = 30 * time.Second

// advance applies the clocks of silence to a member. The caller holds mu.
func (g *Gateway) advance(m *member, now time.Time) {
	next := m.stateAt(now, g.settings)
	if next == m.state {
		return
	}
	g.logger.Info("member changed state", "member", m.alias, "from", string(m.state), "to", string(next), "silent", now.Sub(m.heard).String())
	m.state = next
	for _, j := range g.jobs {
		if j.runsOn(m.alias) {
			g.touch(j)
			g.work.add(j.key) // it may have missed a command
		}
	}
	g.changed()
	if next == pool.MemberReady {
		g.retryBlocked(m.alias)
	}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func ptr[T any](v T) *T { return &v }
