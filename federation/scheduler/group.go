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
	name        string
	count       int
	gang        bool
	colocate    string
	maxPrice    float64 // negative: none
	constraints []*structs.Constraint
	drivers     map[string]struct{}
	devices     []*structs.RequestedDevice
	volumes     map[string]*api.VolumeRequest
	affinities  []affinity
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
	g.constraints = newConstraints(job.Constraints, tg.Constraints)
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
	g.constraints = append(g.constraints, newConstraints(task.Constraints)...)
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
		g.affinities = append(g.affinities, affinity{
			constraint: &structs.Constraint{LTarget: a.LTarget, RTarget: a.RTarget, Operand: a.Operand}, weight: weight,
		})
	}
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
