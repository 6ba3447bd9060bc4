package device

import (
	"cmp"
	"fmt"
	"slices"

	"pangaea/device/nvml"
)

// place is where a GPU sits, as far as its group's name tells. Once known it stays: Nomad would double-book a busy GPU
// whose group is renamed because a link flaps or the kernel does not answer for once.
type place struct {
	Numa   nvml.Reading[int]    `json:"numa"`
	NVLink nvml.Reading[string] `json:"nvlink"`
}

// settle fills in what was not known yet, and tells whether there was any.
func (p *place) settle(now place) bool {
	was := *p
	if !p.Numa.OK {
		p.Numa = now.Numa
	}
	if !p.NVLink.OK {
		p.NVLink = now.NVLink
	}
	return *p != was
}

// locate finds out the places of all GPUs that are there, with those of earlier lives where today's cannot be told.
func (m *monitor) locate() {
	present := make([]*gpu, 0, len(m.gpus))
	for _, g := range m.gpus {
		if g.live {
			present = append(present, g)
		}
	}
	slices.SortFunc(present, func(a, b *gpu) int { return cmp.Compare(a.busID, b.busID) })
	changed := false
	for _, g := range present {
		// What the hardware says counts first, then what it said in an earlier life, then what can be concluded.
		for _, known := range []place{{Numa: g.numa, NVLink: g.traits.NVLinkClique}, m.places[g.uuid], {NVLink: clique(g, present)}} {
			changed = g.place.settle(known) || changed
		}
	}
	if !changed || m.lookOnly {
		return
	}
	for _, g := range present {
		m.places[g.uuid] = g.place
	}
	err := m.settings.control.Keep("places", m.places)
	if err != nil {
		m.log.Warn("the GPUs' groups may be named otherwise after a restart", "error", err)
	}
}

// clique names the GPUs that one can reach over NVLink where no fabric has a name for them: "switch", or the bus ID of the
// first of those that links join.
func clique(g *gpu, all []*gpu) nvml.Reading[string] {
	switch {
	case g.traits.NVLinkSwitch:
		return nvml.Of("switch")
	case len(g.traits.NVLinkRemotes) == 0:
		return nvml.Reading[string]{}
	}
	joined := map[string]bool{g.busID: true}
	for before := 0; before != len(joined); {
		before = len(joined)
		for _, other := range all {
			near := func(bus string) bool { return joined[bus] }
			if joined[other.busID] || slices.ContainsFunc(other.traits.NVLinkRemotes, near) {
				joined[other.busID] = true
				for _, bus := range other.traits.NVLinkRemotes {
					joined[bus] = true
				}
			}
		}
	}
	first := g.busID
	for bus := range joined {
		first = min(first, bus)
	}
	return nvml.Of(first)
}

// groupName adds the place that a task's GPUs have to share, as Nomad never lets one ask span two groups.
func groupName(u unit, groupBy string) string {
	switch {
	case groupBy == "numa" && u.place.Numa.OK:
		return fmt.Sprintf("%s numa%d", u.name, u.place.Numa.Value)
	case groupBy == "nvlink" && u.place.NVLink.OK:
		return u.name + " nvlink " + u.place.NVLink.Value
	}
	return u.name
}
