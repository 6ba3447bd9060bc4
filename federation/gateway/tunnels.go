package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
	"pangaea/federation/tunnel"
)

// accept serves one member's tunnel until it ends. A member that comes anew takes the place of its older session: the
// older one is what a network that broke without a word has left behind.
func (g *Gateway) accept(ctx context.Context, s *tunnel.Session) {
	alias := s.Peer()
	g.logger.Info("member connected", "member", alias, "remote", s.RemoteAddr())
	err := s.Serve(ctx, g.memberHandler())
	g.disconnected(alias, s)
	if ctx.Err() == nil {
		g.logger.Info("member disconnected", "member", alias, "reason", err)
	}
}

func (g *Gateway) disconnected(alias string, s session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.member(alias)
	if m.session != s {
		return
	}
	m.session, m.synced, m.offer, m.free = nil, false, nil, nil
	g.advance(m, g.settings.now())
}

// memberHandler is what a member may ask of a gateway in one session.
func (g *Gateway) memberHandler() http.Handler {
	mux := http.NewServeMux()
	turn := make(chan struct{}, 1)
	mux.HandleFunc("PUT "+pool.PathSync, inTurn(turn, g.onSync))
	mux.HandleFunc("PUT "+pool.PathOffer, inTurn(turn, g.onOffer))
	mux.HandleFunc("PUT "+pool.PathStatus, inTurn(turn, g.onStatus))
	mux.HandleFunc("GET "+pool.PathRelay, g.onRelay)
	return mux
}

// inTurn has a session's messages wait for each other, as an agent sends them: side by side each may take as much memory
// as one message may.
func inTurn(turn chan struct{}, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
			next(w, r)
		case <-r.Context().Done():
		}
	}
}

// receive decodes a member's message and names its sender by its certificate. On false it has answered. A gateway that
// does not lead answers 503: a member must not take it for contact with the pool, since the leader, who would place its
// work elsewhere, does not hear it.
func (g *Gateway) receive(w http.ResponseWriter, r *http.Request, into any) (*tunnel.Session, bool) {
	s, ok := tunnel.FromContext(r.Context())
	if !ok {
		http.Error(w, "internal error: no session", http.StatusInternalServerError)
		return nil, false
	}
	g.mu.Lock()
	leading, synced := g.leading, g.member(s.Peer()).synced
	g.mu.Unlock()
	if !leading {
		http.Error(w, "this gateway does not lead the pool", http.StatusServiceUnavailable)
		return nil, false
	}
	if !synced && r.URL.Path != pool.PathSync { // it took up the lead since: it must hear first what runs there
		http.Error(w, "this session must be synchronised anew", http.StatusServiceUnavailable)
		return nil, false
	}
	err := json.NewDecoder(r.Body).Decode(into)
	if err != nil {
		http.Error(w, "cannot decode the message: "+err.Error(), http.StatusBadRequest)
		return nil, false
	}
	return s, true
}

// onSync is a session's first message: what the member runs for the pool. The answer names what it must stop before
// anything else, since others have it now.
func (g *Gateway) onSync(w http.ResponseWriter, r *http.Request) {
	var request pool.SyncRequest
	s, ok := g.receive(w, r, &request)
	if !ok {
		return
	}
	sets, err := g.placements(r.Context())
	if err != nil { // without Consul nobody knows what is superseded, and running work goes on
		writeStoreError(w, err)
		return
	}
	alias := s.Peer()
	reply := pool.SyncReply{Heartbeat: g.settings.suspect / 3, Stop: superseded(alias, request.Placements, sets)}
	for _, stop := range reply.Stop {
		g.logger.Info("telling a member to stop what others have or nobody wants", "member", alias, "job", stop.Namespace+"/"+stop.JobID, "epoch", stop.Epoch)
	}
	g.joined(r.Context(), alias, s, request)
	writeJSON(w, reply)
}

// placements reads what was decided, from the leader's memory or else from Consul.
func (g *Gateway) placements(ctx context.Context) (map[jobKey]pool.PlacementSet, error) {
	out := map[jobKey]pool.PlacementSet{}
	g.mu.Lock()
	if g.leading {
		for key, j := range g.jobs {
			out[key] = j.set
		}
		g.mu.Unlock()
		return out, nil
	}
	g.mu.Unlock()
	entries, err := g.store.ListPlacements(ctx)
	for _, entry := range entries {
		out[jobKey{entry.Value.Namespace, entry.Value.JobID}] = entry.Value
	}
	return out, err
}

// superseded lists what a member runs and should not: placements that the pool does not know, that have ended, or that
// are another member's.
func superseded(alias string, have []pool.PlacementRef, sets map[jobKey]pool.PlacementSet) []pool.PlacementRef {
	var stop []pool.PlacementRef
	for _, ref := range have {
		set := sets[jobKey{ref.Namespace, ref.JobID}]
		wanted, other := false, false
		for _, p := range set.Placements {
			wanted = wanted || p.ID == ref.PlacementID && p.Member == alias && isLive(p)
			other = other || p.ID != ref.PlacementID && p.Member == alias && isLive(p)
		}
		if wanted {
			continue
		}
		if !other { // a member remembers the epoch of a stop, and would refuse its other placement with one below
			ref.Epoch = max(ref.Epoch, set.Epoch)
		}
		stop = append(stop, ref)
	}
	return stop
}

// joined makes the session the member's, and sets to work the jobs whose placements there differ from what it runs.
func (g *Gateway) joined(ctx context.Context, alias string, s session, request pool.SyncRequest) {
	g.mu.Lock()
	m := g.member(alias)
	now := g.settings.now()
	fresh := m.joined.IsZero()
	if fresh {
		m.joined = now.UTC()
	}
	changed := fresh || m.place != request.Place || m.price != request.Price || m.version != request.Version
	if m.session != s { // its offers are numbered anew
		m.offer, m.free, m.sequence = nil, nil, 0
	}
	m.session, m.synced, m.heard = s, true, now
	m.place, m.price, m.version = request.Place, request.Price, request.Version
	runs := map[string]uint64{}
	for _, ref := range request.Placements {
		runs[ref.PlacementID] = ref.Epoch
	}
	if g.leading {
		g.compare(alias, runs)
	}
	g.advance(m, now)
	record := pool.MemberRecord{Alias: alias, Place: m.place, Price: m.price, JoinedAt: m.joined, AgentInfo: m.version}
	leading := g.leading
	g.mu.Unlock()
	if changed && leading {
		err := g.store.PutMember(ctx, record)
		if err != nil {
			g.logger.Warn("cannot keep the member's record", "member", alias, "error", err)
		}
	}
}

// compare takes a member's account of what it runs as the truth. The caller holds mu.
func (g *Gateway) compare(alias string, runs map[string]uint64) {
	for key, j := range g.jobs {
		for i, p := range j.set.Placements {
			if p.Member != alias {
				continue
			}
			epoch, there := runs[p.ID]
			j.set.Placements[i].State = j.compare(p, there, epoch)
			g.work.add(key)
		}
	}
}

// compare notes whether a member runs a placement and returns the state that follows.
func (j *job) compare(p pool.Placement, there bool, epoch uint64) pool.PlacementState {
	switch {
	case !isLive(p):
		j.stopped[p.ID] = true // the answer to this sync says so, if it is there at all
	case there && epoch == p.Epoch:
		j.registered[p.ID] = registration{epoch: epoch}
	case !there && j.record.Job != nil && j.isBatch() && p.State == pool.PlacementRegistered:
		// A batch job that has ended is forgotten by its Nomad after some hours: it must not run again.
		return pool.PlacementComplete
	case p.State == pool.PlacementRegistered:
		delete(j.registered, p.ID)
		return pool.PlacementCommitted
	default:
		delete(j.registered, p.ID)
	}
	return p.State
}

// onOffer takes a member's new offer, which is also its sign of life.
func (g *Gateway) onOffer(w http.ResponseWriter, r *http.Request) {
	var offer pool.Offer
	s, ok := g.receive(w, r, &offer)
	if !ok {
		return
	}
	offer.Member = s.Peer()
	prepared := scheduler.NewOffer(offer)
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.member(offer.Member)
	if m.session != session(s) || offer.Sequence < m.sequence && m.offer != nil {
		return // an older session's, or overtaken
	}
	same := m.offer != nil && m.price == offer.Price && m.place == offer.Place && reflect.DeepEqual(m.free, offer.Classes)
	m.sequence = offer.Sequence
	if !same {
		m.offer, m.free, m.place, m.price = prepared, offer.Classes, offer.Place, offer.Price
		g.retryBlocked(m.alias)
		g.noticeNodes(m)
	}
	g.hear(m)
}

// hear notes a sign of life. The caller holds mu.
func (g *Gateway) hear(m *member) {
	now := g.settings.now()
	m.heard = now
	g.advance(m, now)
}

// retryBlocked sets to work what waits for room, since a member's offer has changed; a "no" of that member's is
// forgotten. The caller holds mu.
func (g *Gateway) retryBlocked(alias string) {
	for key, j := range g.jobs {
		if !j.known || j.record.Stopped {
			continue
		}
		delete(j.excluded, alias)
		// A job that is being placed at this moment may have looked at the offer before this one: it looks again.
		if j.blockedID != "" || j.evalID != "" || !j.heldUntil.IsZero() || isSystem(j.record.Job) {
			j.heldUntil = time.Time{}
			g.work.add(key)
		}
	}
}

// onStatus takes a member's news about allocations.
func (g *Gateway) onStatus(w http.ResponseWriter, r *http.Request) {
	var status pool.Status
	s, ok := g.receive(w, r, &status)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.member(s.Peer())
	if m.session != session(s) && m.session != nil {
		return
	}
	g.hear(m)
	for _, key := range m.update(status, g.index.next(), func(stub *api.AllocationListStub) bool { return g.isTheirs(m, stub) }) {
		j := g.jobs[key]
		if j == nil {
			continue
		}
		g.touch(j)
		p, live := j.placementOn(m.alias)
		if live && j.known && !j.record.Stopped && g.hasEnded(j, p) {
			g.work.add(key)
		}
	}
	g.claimNodes(m, status.Allocations)
}

func (g *Gateway) claimNodes(m *member, stubs []*api.AllocationListStub) {
	for _, stub := range stubs {
		if stub != nil && m.allocs[stub.ID] == stub {
			g.claimNode(stub.NodeID, m.alias)
		}
	}
}
