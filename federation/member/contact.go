package member

import (
	"context"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is how long the machine has been up, suspend included: Go's own monotonic clock stands still in suspend,
// and a machine that slept would believe that it had spoken to the pool a moment ago.
func bootTime() time.Duration {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	if err != nil { // cannot be since Linux 2.6.39
		panic("internal error: cannot read CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(now.Nano())
}

// contact remembers when the pool's leader last answered.
type contact struct {
	now func() time.Duration

	mu   sync.Mutex
	last time.Duration
	ever bool // since the agent started
}

func newContact(now func() time.Duration) *contact { return &contact{now: now, last: now()} }

// made notes that a gateway that leads has answered a message sent at the given time: an answer that was long on its
// way says nothing about the time since.
func (c *contact) made(sent time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.ever = max(c.last, sent), true
}

// lost is how long the pool has not answered, and whether it ever has: before, it is how long the agent has run.
func (c *contact) lost() (since time.Duration, ever bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now() - c.last, c.ever
}

// guard stops placements that must not run without the pool, and keeps the leases of the others. Run owns it.
type guard struct {
	placements *placements
	contact    *contact
	renewed    map[jobKey]time.Duration // when a lease was renewed last
}

const guardEvery = 400 * time.Millisecond

// Run looks at every placement some times a second until the context ends.
func (g *guard) Run(ctx context.Context) {
	ticker := time.NewTicker(guardEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			g.check(ctx)
		}
	}
}

func (g *guard) check(ctx context.Context) {
	snapshot, _ := g.placements.watcher.Current()
	if snapshot == nil {
		return // nothing can be stopped through a Nomad that does not answer; the leases run out by themselves
	}
	lost, ever := g.contact.lost()
	for key, placed := range snapshot.jobs {
		ttl, hold := placed.stopAfter(), placed.lostAfter()
		switch {
		case placed.stopped || ttl == 0 && hold == 0:
			g.forget(ctx, key)
		case ttl > 0:
			g.keep(ctx, snapshot, key, ttl)
		case ever && lost < hold:
			g.renew(ctx, snapshot, key, holdRenewal)
		default: // the pool may have given it to another: what starts now waits until the agent has synchronised
			delete(g.renewed, key)
		}
	}
	for key := range g.renewed {
		if snapshot.jobs[key] == nil {
			g.forget(ctx, key)
		}
	}
}

// keep renews the lease of a placement that must not run twice while the pool answers, and stops the placement when it
// has not for too long.
func (g *guard) keep(ctx context.Context, s *snapshot, key jobKey, ttl time.Duration) {
	lost, ever := g.contact.lost()
	since := lost
	if !ever {
		since = max(lost, g.sinceRenewal(ctx, key))
	}
	switch {
	case since >= ttl:
		g.stop(ctx, key, s.jobs[key])
	case ever && lost < ttl/3:
		g.renew(ctx, s, key, ttl)
	}
}

// forget removes the lease of a placement that has ended. One that stays behind holds nothing but a number.
func (g *guard) forget(ctx context.Context, key jobKey) {
	_, known := g.renewed[key]
	if !known {
		return
	}
	delete(g.renewed, key)
	err := g.placements.cluster.DeleteVariable(ctx, key.namespace, leasePath(key.id))
	if err != nil {
		g.placements.logger.Debug("cannot remove a lease", "job", key.id, "error", err)
	}
}

// sinceRenewal is how long ago the last agent renewed a lease. An agent that was restarted has not spoken to the pool
// since then, however often it was restarted.
func (g *guard) sinceRenewal(ctx context.Context, key jobKey) time.Duration {
	variable, err := g.placements.cluster.Variable(ctx, key.namespace, leasePath(key.id))
	if err != nil || variable == nil {
		return 0 // never renewed: the agent's own start counts
	}
	return g.placements.now().Sub(time.Unix(0, variable.ModifyTime))
}

// stop ends a placement by the job's own wish. The pool gives it to another member only after this was due.
func (g *guard) stop(ctx context.Context, key jobKey, placed *placed) {
	defer g.placements.lock(key)()
	_, err := g.placements.deregister(ctx, key, placed.tag, false, "the pool was out of reach for stop_on_client_after")
	if err != nil {
		g.placements.logger.Warn("cannot stop a placement that lost the pool, trying again", "job", key.id, "error", err)
	}
}

// renew changes a lease's variable when a third of its time has passed, and at every look while a task is starting.
func (g *guard) renew(ctx context.Context, s *snapshot, key jobKey, ttl time.Duration) {
	now := g.contact.now()
	last, known := g.renewed[key]
	if known && now-last < ttl/3-guardEvery && !s.starting(key, g.placements.now()) {
		return
	}
	items := map[string]string{leaseItem: strconv.FormatInt(int64(now), 10)}
	err := g.placements.cluster.SetVariable(ctx, key.namespace, leasePath(key.id), items)
	if err != nil {
		g.placements.logger.Warn("cannot renew a lease, trying again", "job", key.id, "error", err)
		return
	}
	g.renewed[key] = now
}
