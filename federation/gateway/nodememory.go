package gateway

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// Bounds of what is remembered of members' nodes, so that users still see the nodes of a member without contact.
const (
	nodeLookers     = 4                // members that are asked at the same time
	lookEvery       = 10 * time.Second // at most: offers change with every allocation, nodes seldom
	forgetNodes     = 24 * time.Hour   // of silence, after which Nomad forgets a node as well
	maxMemberNodes  = 1_000
	maxNodes        = 20_000
	maxMemberBodies = 32
	maxBodies       = 4_096
)

// nodeMemory is a member's nodes as they were seen last. Gateway.mu guards it; what it points to never changes.
type nodeMemory struct {
	stubs   map[string]*api.NodeListStub
	bodies  map[string]*api.Node // full forms of the first ones
	classes []pool.NodeClass     // of the last offer: full forms of the others are made from them
	looked  time.Time
	due     bool // the offer changed so soon after looked that the next look waits
}

// away reports whether a member cannot be asked: it has no tunnel, or one that has been silent for long. The caller holds
// mu.
func (m *member) away() bool { return m.session == nil || m.state == pool.MemberDetached }

// claimNode notes that a node is a member's and reports whether it is. A node that another member still has stays with
// that one: nobody takes over a node's name by listing its ID. The caller holds mu.
func (g *Gateway) claimNode(id, alias string) bool {
	owner, ok := g.nodes[id]
	if ok && owner != alias && g.member(owner).nodes.stubs[id] != nil {
		return false
	}
	g.nodes[id] = alias
	return true
}

// noticeNodes has a member's nodes looked at in the background, since its offer has changed. The caller holds mu.
func (g *Gateway) noticeNodes(m *member) {
	m.nodes.classes = m.free
	now := g.settings.now()
	if len(m.nodes.stubs) > 0 && now.Sub(m.nodes.looked) < lookEvery {
		m.nodes.due = true
		return
	}
	m.nodes.looked, m.nodes.due = now, false
	g.look.add(m.alias)
}

// ageNodes looks at what is due, and forgets the nodes of a member that has been away for too long. The caller holds mu.
func (g *Gateway) ageNodes(m *member, now time.Time) {
	if m.nodes.due && !m.away() && now.Sub(m.nodes.looked) >= lookEvery {
		m.nodes.looked, m.nodes.due = now, false
		g.look.add(m.alias)
	}
	if len(m.nodes.stubs) > 0 && m.away() && now.Sub(m.heard) >= forgetNodes {
		g.setNodes(m, nodeMemory{})
	}
}

// lookAtNodes reads a member's nodes anew. Bodies are read again only where the node has changed.
func (g *Gateway) lookAtNodes(ctx context.Context, alias string) {
	ctx, cancel := context.WithTimeout(ctx, g.settings.patience.look)
	defer cancel()
	g.mu.Lock()
	old, from := g.member(alias).nodes, g.member(alias).session
	g.mu.Unlock()
	var stubs []*api.NodeListStub
	err := g.get(ctx, alias, "/v1/nodes?resources=true&os=true", &stubs)
	if err != nil {
		g.logger.Debug("cannot look at a member's nodes", "member", alias, "error", err)
		return
	}
	next := nodeMemory{stubs: map[string]*api.NodeListStub{}, bodies: map[string]*api.Node{}}
	for _, stub := range stubs {
		if stub == nil || len(next.stubs) >= maxMemberNodes {
			continue
		}
		next.stubs[stub.ID] = stub
		if body := g.nodeBody(ctx, alias, stub, old.bodies[stub.ID], len(next.bodies)); body != nil {
			next.bodies[stub.ID] = body
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.member(alias); m.session == from {
		next.classes, next.looked, next.due = m.nodes.classes, m.nodes.looked, m.nodes.due
		g.setNodes(m, next)
	}
}

// nodeBody reads a node's full form unless old is still good or there are enough.
func (g *Gateway) nodeBody(ctx context.Context, alias string, stub *api.NodeListStub, old *api.Node, have int) *api.Node {
	if have >= maxMemberBodies || stub.ID != hexOnly(stub.ID) {
		return nil
	}
	if old != nil && old.ModifyIndex == stub.ModifyIndex {
		return old
	}
	var body *api.Node
	err := g.get(ctx, alias, "/v1/node/"+stub.ID, &body)
	if err != nil || body == nil || body.ID != stub.ID {
		g.logger.Debug("cannot look at a member's node", "member", alias, "node", stub.ID, "error", err)
		return nil
	}
	return body
}

// setNodes replaces what is remembered of a member's nodes, within the bounds. The caller holds mu.
func (g *Gateway) setNodes(m *member, next nodeMemory) {
	m.nodes = next
	maps.DeleteFunc(g.nodes, func(id, alias string) bool { return alias == m.alias && next.stubs[id] == nil })
	for id := range next.stubs {
		if !g.claimNode(id, m.alias) {
			g.logger.Warn("a member lists another member's node", "member", m.alias, "owner", g.nodes[id], "node", id)
			delete(next.stubs, id)
			delete(next.bodies, id)
		}
	}
	for _, stub := range m.allocs {
		g.claimNode(stub.NodeID, m.alias)
	}
	g.boundNodes(m)
}

// boundNodes forgets the nodes of those who have been away for longest while all together are too many, and of last when
// nobody is away. The caller holds mu.
func (g *Gateway) boundNodes(last *member) {
	stubs, bodies := 0, 0
	for _, m := range g.members {
		stubs, bodies = stubs+len(m.nodes.stubs), bodies+len(m.nodes.bodies)
	}
	if stubs <= maxNodes && bodies <= maxBodies {
		return
	}
	order := slices.SortedFunc(maps.Values(g.members), func(a, b *member) int {
		return cmp.Or(a.heard.Compare(b.heard), cmp.Compare(a.alias, b.alias))
	})
	order = append(slices.DeleteFunc(order, func(m *member) bool { return m == last || !m.away() }), last)
	for _, m := range order {
		if bodies > maxBodies {
			bodies -= len(m.nodes.bodies)
			m.nodes.bodies = nil
		}
		if stubs > maxNodes {
			stubs -= len(m.nodes.stubs)
			m.nodes.stubs = nil
		}
	}
}
