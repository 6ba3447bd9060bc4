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
	place     place
	device    nvml.Device
	live      bool

	users    []owner.User
	residue  residue
	left     string              // what the next tenant would find
	residues map[string]*residue // the same, of MIG instances by UUID
	lastXid  uint64

	judge     health.Judge
	claim     owner.Claim
	claimed   string           // why its owner wants it now, "" when he does not
	unbounded string           // why MPS does not bound its shares, "" when it does or is not to
	reclaim   *control.Reclaim // his explicit word

	samplers map[string]*nvml.Sampler // of its units by ID, as long as the library stays open

	eviction *eviction // the last one asked for
	verdict  health.Verdict
}

// meet takes in what a look found out, except for its health.
func (g *gpu) meet(p probe, now time.Time, sys, proc string) {
	g.index, g.device, g.live = p.index, p.device, true
	if p.id.Name.OK {
		g.name = modelName(p.id.Name.Value)
	}
	if p.id.BusID.OK {
		g.busID = p.id.BusID.Value
		node := numaNode(sys, g.busID)
		if node.OK {
			g.numa = node
		}
	}
	if p.traitsNew {
		g.settled = len(p.vitals.Failures) == 0
		if g.settled || g.traitsAt.IsZero() {
			g.traits, g.traitsAt = p.traits, now
			if g.traits.Unified {
				g.traits.Memory = machineMemory(proc)
			}
		}
		if !g.numa.OK {
			g.numa = p.traits.NumaNode
		}
	}
	if p.migAsked {
		g.meetInstances(p)
	}
}

// meetInstances takes in the MIG instances that there are.
func (g *gpu) meetInstances(p probe) {
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
	g.users = host.Users(p.vitals.Processes)
	for i := range g.instances {
		g.instances[i].users = host.Users(g.instances[i].processes)
	}
	p.vitals.SlowdownAt = g.traits.SlowdownAt
	v := g.judge.Examine(p.vitals, now, g.examineResidues(p, s, now))
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

// examineResidues looks at what tenants left, on the card or on each of its instances.
func (g *gpu) examineResidues(p probe, s settings, now time.Time) string {
	if s.allowResidue {
		return ""
	}
	if !g.mig {
		what, left := g.residue.look(g.users, owner.Hidden(p.vitals.Processes, g.users), p.vitals.Memory)
		g.left = whenAlone(what, s)
		return g.residue.judge(what, left, now)
	}
	for i := range g.instances {
		in := &g.instances[i]
		if g.residues == nil {
			g.residues = make(map[string]*residue)
		}
		c, ok := g.residues[in.id.UUID]
		if !ok {
			c = new(residue)
			g.residues[in.id.UUID] = c
		}
		what, left := c.look(in.users, owner.Hidden(in.processes, in.users), in.memory)
		in.left = whenAlone(what, s)
		dirt := c.judge(what, left, now)
		if dirt != "" && in.broken == "" {
			in.broken = dirt
		}
	}
	return ""
}

// whenAlone is nothing on a GPU that tenants share: others are there by right.
func whenAlone(what string, s settings) string {
	if s.replicas > 1 {
		return ""
	}
	return what
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
	for i := range g.instances {
		g.instances[i].users = nil
	}
}

// units are what Nomad may hand out of this card: itself, or its instances in MIG mode.
func (g *gpu) units(w *worker) []unit {
	base := unit{
		id: g.uuid, name: g.name, busID: g.busID, index: g.index, healthy: g.verdict.Healthy, reason: g.verdict.Reason,
		traits: g.traits, place: g.place, left: g.left, task: firstTask(g.users), lastXid: g.lastXid, worker: w, device: g.device, live: g.live,
	}
	if base.name == "" {
		base.name = unknownModel
	}
	if !g.mig {
		base.sampler = g.sampler(base.id)
		return []unit{base}
	}
	var all []unit
	for _, i := range g.instances {
		u := base
		u.id, u.name, u.device, u.profile = i.id.UUID, modelName(i.id.Name.Value), i.device, i.profile()
		u.sampler = g.sampler(u.id)
		u.traits.Memory, u.traits.MemoryReserved, u.left = i.memory.Total, i.memory.Reserved, i.left
		u.traits.BAR1, u.traits.Cores = i.bar1, nvml.Reading[int]{}
		u.task = firstTask(i.users)
		if i.broken != "" && u.healthy {
			u.healthy, u.reason, u.live = false, i.broken, false
		}
		all = append(all, u)
	}
	return all
}

// sampler remembers what the samples of a unit have in common.
func (g *gpu) sampler(id string) *nvml.Sampler {
	s, ok := g.samplers[id]
	if !ok {
		s = new(nvml.Sampler)
		g.samplers[id] = s
	}
	return s
}

// machineMemory is what the machine has, in bytes: what a GPU without memory of its own can use, as CUDA tells its programs too.
func machineMemory(proc string) nvml.Reading[uint64] {
	text, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return nvml.Reading[uint64]{}
	}
	_, rest, _ := strings.Cut(string(text), "MemTotal:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " kB")
	kib, err := strconv.ParseUint(number, 10, 54)
	if err != nil {
		return nvml.Reading[uint64]{}
	}
	return nvml.Of(kib << 10)
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
