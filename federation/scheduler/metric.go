package scheduler

import (
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/ryanuber/go-glob"

	"pangaea/federation/pool"
)

// metric gathers Nomad's explanation of a placement that failed.
type metric struct {
	out *api.AllocationMetric
}

func newMetric(job *api.Job) *metric {
	m := &metric{out: &api.AllocationMetric{
		NodePool:       orDefault(value(job.NodePool), structs.NodePoolDefault),
		NodesAvailable: map[string]int{}, ClassFiltered: map[string]int{}, ConstraintFiltered: map[string]int{},
		ClassExhausted: map[string]int{}, DimensionExhausted: map[string]int{},
	}}
	for _, name := range job.Datacenters {
		if name != "*" {
			m.out.NodesAvailable[name] = 0 // the CLI tells of a datacenter that stays at zero
		}
	}
	return m
}

func (m *metric) available(c *class) {
	m.out.NodesInPool += c.nodes
	m.out.NodesEvaluated += c.nodes
	counted := false
	for pattern := range m.out.NodesAvailable {
		if glob.Glob(pattern, c.node.Datacenter) {
			m.out.NodesAvailable[pattern] += c.nodes
			counted = true
		}
	}
	if !counted {
		m.out.NodesAvailable[c.node.Datacenter] += c.nodes
	}
}

func (m *metric) filtered(c *class, reason string) {
	m.out.NodesFiltered += c.nodes
	m.out.ConstraintFiltered[reason] += c.nodes
	if c.node.NodeClass != "" {
		m.out.ClassFiltered[c.node.NodeClass] += c.nodes
	}
}

// exhausted counts the nodes of a class that take no more of the group.
func (m *metric) exhausted(g *group, c *class, free []pool.Capacity, devices [][]string) {
	for _, capacity := range free {
		dimension := g.shortage(capacity, devices)
		if dimension == "" {
			continue
		}
		m.out.NodesExhausted += capacity.Count
		m.out.DimensionExhausted[dimension] += capacity.Count
		if c.node.NodeClass != "" {
			m.out.ClassExhausted[c.node.NodeClass] += capacity.Count
		}
	}
}

// merge adds a member's own account of its refusal. Its nodes are in NodesEvaluated already.
func (m *metric) merge(from *api.AllocationMetric) {
	if from == nil {
		return
	}
	m.out.NodesFiltered += from.NodesFiltered
	m.out.NodesExhausted += from.NodesExhausted
	sum(m.out.ClassFiltered, from.ClassFiltered)
	sum(m.out.ConstraintFiltered, from.ConstraintFiltered)
	sum(m.out.ClassExhausted, from.ClassExhausted)
	sum(m.out.DimensionExhausted, from.DimensionExhausted)
	m.out.QuotaExhausted = append(m.out.QuotaExhausted, from.QuotaExhausted...)
}

func sum(to, from map[string]int) {
	for k, n := range from {
		to[k] += n
	}
}
