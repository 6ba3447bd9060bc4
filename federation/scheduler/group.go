package scheduler

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"

	"pangaea/federation/pool"
)

// group is what one task group asks for, gathered from its job, itself and its tasks.
type group struct {
	name     string
	count    int
	gang     bool
	colocate string
	maxPrice float64 // negative: none
	// What asks about the pool's own attributes is the same for all of a member's nodes and is asked once a member.
	memberConstraints []*structs.Constraint
	memberAffinities  []affinity

	constraints []*structs.Constraint
	drivers     map[string]struct{}
	devices     []*structs.RequestedDevice
	volumes     map[string]*api.VolumeRequest
	affinities  []affinity
	weights     float64 // of all affinities, to norm their sum
	spreads     []*api.Spread
	properties  []property
	perNode     bool // distinct_hosts
	everywhere  bool // a system job
	cpu         int64
	memory      int64
	disk        int64
}

type affinity struct {
	constraint *structs.Constraint
	weight     float64
}

// property is a distinct_property constraint: at most limit allocations for each value.
type property struct {
	target string
	limit  int
}

func newGroup(job *api.Job, tg *api.TaskGroup) group {
	g := group{
		name: value(tg.Name), count: 1, maxPrice: -1, drivers: map[string]struct{}{}, volumes: tg.Volumes,
		gang: meta(job, tg, pool.MetaGang) == "true", colocate: meta(job, tg, pool.MetaColocate),
	}
	if tg.Count != nil {
		g.count = *tg.Count
	}
	kind := value(job.Type)
	g.everywhere = kind == api.JobTypeSystem || kind == api.JobTypeSysbatch
	price, err := strconv.ParseFloat(meta(job, tg, pool.MetaMaxPrice), 64)
	if err == nil && price >= 0 {
		g.maxPrice = price
	}
	g.addConstraints(job.Constraints, tg.Constraints)
	g.spreads = slices.Concat(job.Spreads, tg.Spreads)
	g.addAffinities(job.Affinities)
	g.addAffinities(tg.Affinities)
	g.addDistinct(job.Constraints)
	g.addDistinct(tg.Constraints)
	if tg.EphemeralDisk != nil {
		g.disk = number(tg.EphemeralDisk.SizeMB)
	}
	for _, task := range tg.Tasks {
		g.addTask(task)
	}
	return g
}

func (g *group) addTask(task *api.Task) {
	g.drivers[task.Driver] = struct{}{}
	g.addConstraints(task.Constraints)
	g.addAffinities(task.Affinities)
	if task.Resources == nil {
		return
	}
	// Whole cores come with a CPU figure that only the node knows; the member's plan counts them.
	g.cpu += number(task.Resources.CPU)
	g.memory += number(task.Resources.MemoryMB)
	for _, device := range task.Resources.Devices {
		request := &structs.RequestedDevice{Name: device.Name, Count: 1, Constraints: newConstraints(device.Constraints)}
		if device.Count != nil {
			request.Count = *device.Count
		}
		g.devices = append(g.devices, request)
	}
}

func (g *group) addAffinities(list []*api.Affinity) {
	for _, a := range list {
		if a == nil || isUnique(a.LTarget) {
			continue
		}
		weight := 50.0
		if a.Weight != nil {
			weight = float64(*a.Weight)
		}
		one := affinity{constraint: &structs.Constraint{LTarget: a.LTarget, RTarget: a.RTarget, Operand: a.Operand}, weight: weight}
		g.weights += max(weight, -weight)
		if isPools(one.constraint) {
			g.memberAffinities = append(g.memberAffinities, one)
		} else {
			g.affinities = append(g.affinities, one)
		}
	}
}

func (g *group) addConstraints(lists ...[]*api.Constraint) {
	for _, c := range newConstraints(lists...) {
		if isPools(c) {
			g.memberConstraints = append(g.memberConstraints, c)
		} else {
			g.constraints = append(g.constraints, c)
		}
	}
}

// isPools tells constraints that ask about the pool's attributes and nothing else.
func isPools(c *structs.Constraint) bool {
	const prefix = "${meta.pool."
	known := func(target string) bool { return strings.HasPrefix(target, prefix) || !strings.HasPrefix(target, "${") }
	return known(c.LTarget) && known(c.RTarget) && (strings.HasPrefix(c.LTarget, prefix) || strings.HasPrefix(c.RTarget, prefix))
}

// join norms the sum of a member's and its class's affinities to [-1, 1], as Nomad does.
func (g *group) join(member, class float64) float64 {
	if g.weights == 0 {
		return 0
	}
	return (member + class) / g.weights
}

func (g *group) addDistinct(list []*api.Constraint) {
	for _, c := range list {
		switch c.Operand {
		case api.ConstraintDistinctHosts:
			g.perNode = g.perNode || c.RTarget != "false"
		case api.ConstraintDistinctProperty:
			limit, err := strconv.Atoi(c.RTarget)
			if err != nil || limit < 1 {
				limit = 1
			}
			if !isUnique(c.LTarget) {
				g.properties = append(g.properties, property{target: c.LTarget, limit: limit})
			}
		}
	}
}

// isUnique tells targets whose value differs from node to node within a class: the pool cannot decide them.
func isUnique(target string) bool { return strings.Contains(target, "unique.") }

func meta(job *api.Job, tg *api.TaskGroup, key string) string {
	if v, ok := tg.Meta[key]; ok {
		return v
	}
	return job.Meta[key]
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n *int) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}
