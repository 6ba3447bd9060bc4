package scheduler

import (
	"fmt"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/scheduler/feasible"
	"github.com/ryanuber/go-glob"
)

// Reasons in the words of Nomad's own checkers, which its CLI and users know.
const (
	reasonDrivers = "missing drivers"
	reasonDevices = "missing devices"
	reasonVolumes = "missing compatible host volumes"
)

// checker wraps Nomad's feasibility checkers for one placement.
type checker struct {
	ctx         *feasible.EvalContext
	job         *api.Job
	constraints *feasible.ConstraintChecker
	devices     *feasible.DeviceChecker
	drivers     *feasible.DriverChecker
	datacenters []string
	nodePool    string
	regions     map[string]bool // nil: anywhere
}

func newChecker(job *api.Job) *checker {
	// Nomad's checkers ask state and plan for volumes and preemption only, which are not used here.
	ctx := feasible.NewEvalContext(nil, nil, &structs.Plan{}, hclog.NewNullLogger())
	return &checker{
		ctx: ctx, job: job,
		constraints: feasible.NewConstraintChecker(ctx, nil),
		devices:     feasible.NewDeviceChecker(ctx),
		drivers:     feasible.NewDriverChecker(ctx, nil),
		datacenters: job.Datacenters, nodePool: value(job.NodePool), regions: regions(job),
	}
}

// Anywhere reports whether a job's region leaves the choice of the member to the pool.
func Anywhere(region string) bool { return region == "" || region == "global" || region == "*" }

func regions(job *api.Job) map[string]bool {
	if job.Multiregion != nil && len(job.Multiregion.Regions) > 0 {
		out := map[string]bool{}
		for _, region := range job.Multiregion.Regions {
			if Anywhere(region.Name) {
				return nil
			}
			out[region.Name] = true
		}
		return out
	}
	if Anywhere(value(job.Region)) {
		return nil
	}
	return map[string]bool{value(job.Region): true}
}

// memberReason says why a member as a whole is out of the question, or "".
func (c *checker) memberReason(g *group, m Member) string {
	if c.regions != nil && !c.regions[m.Alias] {
		return "region = " + value(c.job.Region)
	}
	if g.maxPrice >= 0 && m.Offer.price > g.maxPrice {
		return fmt.Sprintf("pool_max_price = %s", strconv.FormatFloat(g.maxPrice, 'f', -1, 64))
	}
	return c.unmet(g.memberConstraints, m.Offer.head)
}

// unmet names the first constraint that a node does not meet, or "".
func (c *checker) unmet(constraints []*structs.Constraint, node *structs.Node) string {
	for i := range constraints {
		c.constraints.SetConstraints(constraints[i : i+1])
		if !c.constraints.Feasible(node) {
			return constraints[i].String()
		}
	}
	return ""
}

// available reports whether a node counts at all: its datacenter and node pool are the job's.
func (c *checker) available(node *structs.Node) bool {
	if c.nodePool != structs.NodePoolAll && node.NodePool != orDefault(c.nodePool, structs.NodePoolDefault) {
		return false
	}
	if len(c.datacenters) == 0 {
		return true
	}
	for _, pattern := range c.datacenters {
		if glob.Glob(pattern, node.Datacenter) {
			return true
		}
	}
	return false
}

// reason says why no allocation of the group can ever run on nodes of the class, or "".
func (c *checker) reason(g *group, node *structs.Node) string {
	c.drivers.SetDrivers(g.drivers)
	if !c.drivers.Feasible(node) {
		return reasonDrivers
	}
	if unmet := c.unmet(g.constraints, node); unmet != "" {
		return unmet
	}
	if !hasVolumes(g, node) {
		return reasonVolumes
	}
	if len(g.devices) > 0 && !c.match(node, g.devices...) {
		return reasonDevices
	}
	return ""
}

// hasVolumes reports whether a node has the host volumes that the group mounts.
func hasVolumes(g *group, node *structs.Node) bool {
	for _, volume := range g.volumes {
		if volume.Type != "" && volume.Type != structs.VolumeTypeHost || volume.Sticky {
			continue // storage that the member's plan knows better
		}
		// A source that ends in an allocation's index cannot be decided before Nomad numbers it.
		have, ok := node.HostVolumes[volume.Source]
		if !volume.PerAlloc && (!ok || have.ReadOnly && !volume.ReadOnly) {
			return false
		}
	}
	return true
}

// match reports whether the node's healthy devices satisfy the requests, busy or not.
func (c *checker) match(node *structs.Node, requests ...*structs.RequestedDevice) bool {
	c.devices.SetTaskGroup(&structs.TaskGroup{
		Tasks: []*structs.Task{{Resources: &structs.Resources{Devices: requests}}},
	})
	return c.devices.Feasible(node)
}

// deviceGroups lists, for each request, the node's device groups that satisfy its name and constraints.
func (c *checker) deviceGroups(g *group, node *structs.Node) [][]string {
	out := make([][]string, len(g.devices))
	for i, request := range g.devices {
		one := *request
		one.Count = 1
		for _, device := range node.NodeResources.Devices {
			alone := structs.Node{NodeResources: &structs.NodeResources{Devices: []*structs.NodeDeviceResource{device}}}
			if c.match(&alone, &one) {
				out[i] = append(out[i], device.ID().String())
			}
		}
	}
	return out
}

// affinity adds up the weights of the affinities that a node meets.
func (c *checker) affinity(affinities []affinity, node *structs.Node) float64 {
	var score float64
	for _, a := range affinities {
		if c.unmet([]*structs.Constraint{a.constraint}, node) == "" {
			score += a.weight
		}
	}
	return score
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
