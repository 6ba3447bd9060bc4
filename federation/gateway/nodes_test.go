package gateway

import (
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

// twin is a second node of a member's, of which no full form can be read.
const twinID = "11111111-2222-3333-4444-555555555555"

func twin() *api.NodeListStub {
	return &api.NodeListStub{ID: twinID, Name: "twin", Datacenter: "dc1", NodePool: "default", Status: "ready", SchedulingEligibility: "eligible", Drivers: map[string]*api.DriverInfo{"runc": {Healthy: true}}}
}

func (p *fakePool) looked(alias string, count int) {
	p.t.Helper()
	deadline := time.Now().Add(soon)
	for {
		p.gateway.mu.Lock()
		have := len(p.gateway.members[alias].nodes.stubs)
		p.gateway.mu.Unlock()
		if have == count {
			return
		}
		must.True(p.t, time.Now().Before(deadline), must.Sprintf("%d nodes of %s are remembered, not %d", have, alias, count))
		time.Sleep(5 * time.Millisecond)
	}
}

// TestAbsentNodes checks that nodes of a member without contact are still shown, as what they are.
func TestAbsentNodes(t *testing.T) {
	fr := france()
	fr.moreNodes = []*api.NodeListStub{twin()}
	p := newPool(t, fr, japan())
	p.run(losing(time.Hour))
	p.eventually("allocations", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 2 })
	p.looked("fr-par-1", 2)
	p.looked("jp-tyo-1", 1)
	nodes, _, err := p.client.Nodes().List(nil)
	must.NoError(t, err)
	must.Len(t, 3, nodes)
	for _, node := range nodes {
		must.Eq(t, "ready", node.Status)
	}
	seen := p.clock().UTC().Format(time.RFC3339)
	fr.disconnect()

	nodes, _, err = p.client.Nodes().List(nil)
	must.NoError(t, err)
	must.Len(t, 3, nodes)
	for _, node := range nodes {
		must.Eq(t, "", node.Address)
		if node.ID == nodeIDOf("jp-tyo-1") {
			must.Eq(t, "ready", node.Status)
			continue
		}
		must.Nil(t, node.NodeResources)
		must.Eq(t, "disconnected", node.Status)
		must.Eq(t, "no contact with member fr-par-1 since "+seen, node.StatusDescription)
		must.Eq(t, "ineligible", node.SchedulingEligibility)
	}
	rich, _, err := p.client.Nodes().List(&api.QueryOptions{Prefix: nodeIDOf("fr-par-1")[:8], Params: map[string]string{"resources": "true", "os": "true"}})
	must.NoError(t, err)
	must.Len(t, 1, rich)
	must.Eq(t, 100000, rich[0].NodeResources.Memory.MemoryMB)
	must.Eq(t, "debian", rich[0].Attributes["os.name"])
	elsewhere, _, err := p.client.Nodes().List(&api.QueryOptions{Region: "jp-tyo-1"})
	must.NoError(t, err)
	must.Len(t, 1, elsewhere)

	node, _, err := p.client.Nodes().Info(nodeIDOf("jp-tyo-1"), nil)
	must.NoError(t, err)
	must.Eq(t, "", node.HTTPAddr) // whatever its member says: the CLI would call it

	for id, attribute := range map[string]string{nodeIDOf("fr-par-1"): "driver.runc", twinID: "kernel.name"} { // read, rebuilt
		node, _, err := p.client.Nodes().Info(id, nil)
		must.NoError(t, err)
		must.Eq(t, "disconnected", node.Status)
		must.Eq(t, "ineligible", node.SchedulingEligibility)
		must.Eq(t, "", node.HTTPAddr)
		must.Eq(t, "fr-par-1", node.Meta[pool.MetaMember])
		must.MapContainsKey(t, node.Attributes, attribute)
	}
	rebuilt, _, err := p.client.Nodes().Info(twinID, nil)
	must.NoError(t, err)
	must.Eq(t, "FR", rebuilt.Meta[pool.MetaCountry])
	must.Len(t, 1, rebuilt.NodeResources.Devices)

	for _, wait := range []time.Duration{0, time.Minute} { // its allocations are thought to run, and then unknown
		p.pass(wait)
		allocs, _, err := p.client.Nodes().Allocations(nodeIDOf("fr-par-1"), nil)
		must.NoError(t, err)
		must.Len(t, 2, allocs)
		must.Eq(t, "web", *allocs[0].Job.ID)
		for _, verb := range []string{"status", "status -verbose", "status -short"} {
			output, status := p.cli(append([]string{"node"}, append(regexp.MustCompile(" ").Split(verb, -1), nodeIDOf("fr-par-1")[:8])...)...)
			must.Eq(t, 0, status, must.Sprint(output))
			must.RegexMatch(t, regexp.MustCompile(`Status +=? disconnected`), output)
			must.StrContains(t, output, allocs[0].ID[:8])
		}
	}
	output, status := p.cli("node", "status")
	must.Eq(t, 0, status)
	must.RegexMatch(t, regexp.MustCompile(`fr-par-1-node.* ineligible +disconnected`), output)
	output, status = p.cli("alloc", "logs", p.anyAlloc("web"))
	must.Eq(t, 1, status)
	must.StrContains(t, output, "no contact with member fr-par-1")

	fr.connect(p.gateway)
	output, _ = p.cli("node", "status")
	must.RegexMatch(t, regexp.MustCompile(`fr-par-1-node.* eligible +ready`), output)
}

func (p *fakePool) anyAlloc(job string) string {
	stubs, _, err := p.client.Jobs().Allocations(job, false, nil)
	must.NoError(p.t, err)
	must.SliceNotEmpty(p.t, stubs)
	return stubs[0].ID
}

// Offers change with every allocation: nodes are looked at seldom, and their full forms only if they changed.
func TestNodesAreLookedAtSeldom(t *testing.T) {
	fr := france()
	p := newPool(t, fr)
	p.looked("fr-par-1", 1)
	must.Eq(t, 1, fr.bodyCount())
	fr.set(func() { fr.moreNodes, fr.gpus = []*api.NodeListStub{twin()}, 3 })
	p.pass(time.Second)
	p.looked("fr-par-1", 1)
	p.pass(lookEvery)
	p.looked("fr-par-1", 2)
	must.Eq(t, 2, fr.bodyCount()) // the first one's was good still; the second has none
	fr.disconnect()
	p.pass(forgetNodes - time.Minute)
	p.looked("fr-par-1", 2)
	p.pass(2 * time.Minute)
	p.looked("fr-par-1", 0)
	_, _, err := p.client.Nodes().Info(twinID, nil)
	must.ErrorContains(t, err, "node not found")
}

func (m *fakeMember) bodyCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bodies
}

// A member cannot take over another's node by listing its ID.
func TestStolenNode(t *testing.T) {
	p := newPool(t, france())
	p.looked("fr-par-1", 1)
	thief := japan()
	thief.moreNodes = []*api.NodeListStub{{ID: nodeIDOf("fr-par-1"), Name: "stolen", Status: "ready"}}
	p.join(thief)
	p.looked("jp-tyo-1", 1)
	nodes, _, err := p.client.Nodes().List(nil)
	must.NoError(t, err)
	must.Len(t, 2, nodes)
	node, _, err := p.client.Nodes().Info(nodeIDOf("fr-par-1"), nil)
	must.NoError(t, err)
	must.Eq(t, "fr-par-1-node", node.Name)
}

// TestNodeBounds fills the memory: those who have been away for longest are forgotten first.
func TestNodeBounds(t *testing.T) {
	p := newPool(t)
	g := p.gateway
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range maxNodes/maxMemberNodes + 2 {
		m := g.member(fmt.Sprintf("member-%02d", i))
		m.heard = g.started.Add(time.Duration(i) * time.Second)
		next := nodeMemory{stubs: map[string]*api.NodeListStub{}, bodies: map[string]*api.Node{}}
		for n := range maxMemberNodes {
			id := fmt.Sprintf("%d-%d", i, n)
			next.stubs[id] = &api.NodeListStub{ID: id}
			if n < maxBodies/4 {
				next.bodies[id] = &api.Node{ID: id}
			}
		}
		g.setNodes(m, next)
	}
	stubs, bodies := 0, 0
	for _, m := range g.members {
		stubs, bodies = stubs+len(m.nodes.stubs), bodies+len(m.nodes.bodies)
	}
	must.Eq(t, maxNodes, stubs)
	must.LessEq(t, maxBodies, bodies)
	must.MapEmpty(t, g.members["member-00"].nodes.stubs)
	must.MapEmpty(t, g.members["member-01"].nodes.stubs)
	must.MapLen(t, maxMemberNodes, g.members["member-02"].nodes.stubs)
}

// The right to see nodes is asked for whether their member is there or not.
func TestAbsentNodesNeedAToken(t *testing.T) {
	p := newPool(t, france())
	p.looked("fr-par-1", 1)
	p.members["fr-par-1"].disconnect()
	p.store.mu.Lock()
	p.store.denied[""] = true
	p.store.mu.Unlock()
	for _, path := range []string{"/v1/nodes", "/v1/node/" + nodeIDOf("fr-par-1"), "/v1/node/" + nodeIDOf("fr-par-1") + "/allocations"} {
		response, err := http.Get(p.server.URL + path)
		must.NoError(t, err)
		_ = response.Body.Close()
		must.Eq(t, http.StatusForbidden, response.StatusCode, must.Sprint(path))
	}
}
