package gateway

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// rememberedNodes lists the nodes of the members that did not answer.
func (g *Gateway) rememberedNodes(c *call, answered map[string]bool) []*api.NodeListStub {
	query := c.URL.Query()
	resources, _ := strconv.ParseBool(query.Get("resources"))
	os, _ := strconv.ParseBool(query.Get("os"))
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*api.NodeListStub
	for alias, m := range g.members {
		if answered[alias] || c.region != "" && c.region != alias {
			continue
		}
		for _, stub := range m.nodes.stubs {
			shown := *stub
			shown.Address, shown.Status, shown.SchedulingEligibility = "", api.NodeStatusDisconnected, api.NodeSchedulingIneligible
			shown.StatusDescription = m.noContact()
			if !resources {
				shown.NodeResources, shown.ReservedResources = nil, nil
			}
			if !os {
				shown.Attributes = nil
			}
			out = append(out, &shown)
		}
	}
	return out
}

// noContact says since when a member is away. The caller holds mu.
func (m *member) noContact() string {
	if !m.away() {
		return fmt.Sprintf("member %s does not answer: it was heard last at %s", m.alias, m.heard.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("no contact with member %s since %s", m.alias, m.heard.UTC().Format(time.RFC3339))
}

// rememberedNode returns a node of a member that is away, false for one that can be asked or is not remembered.
func (g *Gateway) rememberedNode(alias, id string) (*api.Node, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.member(alias)
	stub := m.nodes.stubs[id]
	if stub == nil || !m.away() {
		return nil, false
	}
	var out api.Node
	if body := m.nodes.bodies[id]; body != nil {
		out = *body
	} else {
		out = m.rebuild(stub)
	}
	out.HTTPAddr, out.Status, out.SchedulingEligibility = "", api.NodeStatusDisconnected, api.NodeSchedulingIneligible
	out.StatusDescription, out.StatusUpdatedAt = m.noContact(), m.heard.Unix()
	return &out, true
}

// rebuild makes a node's full form from its short one and from the class that it was offered in.
func (m *member) rebuild(stub *api.NodeListStub) api.Node {
	out := api.Node{
		ID: stub.ID, Name: stub.Name, Datacenter: stub.Datacenter, NodeClass: stub.NodeClass, NodePool: stub.NodePool,
		Attributes: map[string]string{}, Meta: map[string]string{}, Drivers: stub.Drivers, Drain: stub.Drain, LastDrain: stub.LastDrain,
		NodeResources: stub.NodeResources, ReservedResources: stub.ReservedResources,
		CreateIndex: stub.CreateIndex, ModifyIndex: stub.ModifyIndex,
	}
	for _, class := range m.nodes.classes {
		alike := class.Node
		if alike == nil || alike.Datacenter != stub.Datacenter || alike.NodeClass != stub.NodeClass || alike.NodePool != stub.NodePool {
			continue
		}
		maps.Copy(out.Attributes, alike.Attributes)
		maps.Copy(out.Meta, alike.Meta)
		out.HostVolumes, out.HostNetworks, out.NodeMaxAllocs = alike.HostVolumes, alike.HostNetworks, alike.NodeMaxAllocs
		out.NodeResources = cmp.Or(out.NodeResources, alike.NodeResources)
		out.ReservedResources = cmp.Or(out.ReservedResources, alike.ReservedResources)
		break
	}
	maps.Copy(out.Attributes, stub.Attributes)
	for key, value := range map[string]string{
		pool.MetaMember: m.alias, pool.MetaCountry: m.place.Country, pool.MetaContinent: m.place.Continent,
		pool.MetaRegion: m.place.Region, pool.MetaPrice: strconv.FormatFloat(m.price, 'f', -1, 64),
	} {
		if value != "" {
			out.Meta[key] = value
		}
	}
	// Tools read these without looking whether they are there.
	out.NodeResources = cmp.Or(out.NodeResources, &api.NodeResources{})
	out.ReservedResources = cmp.Or(out.ReservedResources, &api.NodeReservedResources{})
	return out
}

// rememberedAllocs lists a node's allocations as they were reported last.
func (g *Gateway) rememberedAllocs(alias, nodeID string) []*api.Allocation {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.member(alias)
	var out []*api.Allocation
	for _, stub := range m.allocs {
		if stub.NodeID != nodeID {
			continue
		}
		out = append(out, g.restoreAlloc(g.shown(m, stub)))
	}
	slices.SortFunc(out, func(a, b *api.Allocation) int {
		return cmp.Or(cmp.Compare(b.CreateTime, a.CreateTime), cmp.Compare(a.ID, b.ID))
	})
	return out
}
