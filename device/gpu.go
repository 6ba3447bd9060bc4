package device

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pangaea/device/control"
	"pangaea/device/health"
	"pangaea/device/nvml"
	"pangaea/device/owner"
)

// gpu is one card, known since it was first seen. Only the monitor touches it.
type gpu struct {
	uuid      string
	name      string
	busID     string
	index     int
	traits    nvml.Traits
	traitsAt  time.Time
	settled   bool // all traits could be read
	mig       bool
	instances []instance
	numa      nvml.Reading[int]
	device    nvml.Device
	live      bool

	users   []owner.User
	lastXid uint64

	judge   health.Judge
	claim   owner.Claim
	claimed string           // why its owner wants it now, "" when he does not
	reclaim *control.Reclaim // his explicit word

	eviction *eviction // the last one asked for
	verdict  health.Verdict
}

// meet takes in what a look found out, except for its health.
func (g *gpu) meet(p probe, now time.Time, sys string) {
	g.index, g.device, g.live = p.index, p.device, true
	if p.id.Name.OK {
		g.name = modelName(p.id.Name.Value)
	}
	if p.id.BusID.OK {
		g.busID = p.id.BusID.Value
		g.numa = numaNode(sys, g.busID)
	}
	if p.traitsNew {
		g.settled = len(p.vitals.Failures) == 0
		if g.settled || g.traitsAt.IsZero() {
			g.traits, g.traitsAt = p.traits, now
		}
		if !g.numa.OK {
			g.numa = p.traits.NumaNode
		}
	}
	if p.migKnown {
		g.mig, g.instances = p.mig, p.instances
		return
	}
	// Those that were there before stay listed: Nomad takes what is not for gone, and its tasks' devices with it.
	g.mig = g.mig || p.mig
	for _, old := range g.instances {
		i := slices.IndexFunc(p.instances, func(i instance) bool { return i.id.UUID == old.id.UUID })
		if i < 0 {
			old.broken = "the driver does not tell this MIG instance from others"
			p.instances = append(p.instances, old)
		}
	}
	g.instances = p.instances
}

// judgeProbe decides whether the GPU is offered: sickness first, then its owner's wishes.
func (g *gpu) judgeProbe(p probe, s settings, host owner.Host, now time.Time) {
	v := g.judge.Examine(p.vitals, now)
	g.users = host.Users(p.vitals.Processes)
	g.claimed = g.claim.Reason(s.owner, g.uuid, g.users, now)
	switch {
	case !v.Healthy:
	case g.name == "" || g.name == unknownModel:
		v = health.Verdict{Reason: "the driver does not tell the GPU's name"}
	case s.closed != "":
		v = health.Verdict{Reason: s.closed}
	case g.wanted() != "":
		v = health.Verdict{Reason: g.wanted()}
	}
	g.verdict = v
}

// wanted is why its owner wants the GPU for himself, "" when he does not.
func (g *gpu) wanted() string {
	if g.reclaim != nil {
		return g.reclaim.Reason()
	}
	return g.claimed
}

// broken is a card that can't be looked at; who uses it is not known then.
func (g *gpu) broken(reason string) {
	g.verdict = g.judge.Broken(reason)
	g.users, g.claimed = nil, ""
}

// units are what Nomad may hand out of this card: itself, or its instances in MIG mode.
func (g *gpu) units(w *worker) []unit {
	alloc, task := owner.Task(g.users)
	base := unit{
		id: g.uuid, name: g.name, busID: g.busID, healthy: g.verdict.Healthy, reason: g.verdict.Reason,
		traits: g.traits, numa: g.numa, alloc: alloc, task: task, lastXid: g.lastXid, worker: w, device: g.device, live: g.live,
	}
	if base.name == "" {
		base.name = unknownModel
	}
	if !g.mig {
		return []unit{base}
	}
	var all []unit
	for _, i := range g.instances {
		u := base
		u.id, u.name, u.device, u.profile = i.id.UUID, modelName(i.id.Name.Value), i.device, i.profile()
		u.traits.Memory, u.traits.MemoryReserved = i.traits.Memory, i.traits.MemoryReserved
		u.traits.BAR1, u.traits.Cores = nvml.Reading[uint64]{}, nvml.Reading[int]{}
		if i.broken != "" && u.healthy {
			u.healthy, u.reason, u.live = false, i.broken, false
		}
		all = append(all, u)
	}
	return all
}

// numaNode asks the kernel, which knows it for every PCI device; -1 there means that the machine has none.
func numaNode(sys, busID string) nvml.Reading[int] {
	raw, err := os.ReadFile(filepath.Join(sys, "bus", "pci", "devices", busID, "numa_node"))
	if err != nil {
		return nvml.Reading[int]{}
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || node < 0 {
		return nvml.Reading[int]{}
	}
	return nvml.Of(node)
}
