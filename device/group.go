package device

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/device/nvml"
)

// groups are Nomad's view of a snapshot: one group per model, in a fixed order.
func groups(s *snapshot, groupBy string) []*device.DeviceGroup {
	byName := make(map[string][]unit)
	for _, u := range s.units {
		name := groupName(u, groupBy)
		byName[name] = append(byName[name], u)
	}
	var out []*device.DeviceGroup
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, group(name, byName[name], s.machine))
	}
	return out
}

// reasonKey begins the attribute that shows why a GPU is not offered: nomad node status -verbose prints a group's attributes, but
// health descriptions only with -json. Nomad leaves attributes of this namespace out of the node's class.
const reasonKey = "unique.unhealthy."

// healthyKey is how many of a group are offered. A job that found no healthy GPU waits until there is a node of a class that it
// has not seen, and of health Nomad's class holds nothing but this: without it, a job that came while all were sick, or their
// owner's, would wait for ever.
const healthyKey = "healthy"

func group(name string, units []unit, m nvml.Machine) *device.DeviceGroup {
	g := &device.DeviceGroup{Vendor: vendor, Type: deviceType, Name: name, Attributes: make(map[string]*structs.Attribute)}
	seen := make(map[string]int)
	healthy := 0
	for _, u := range units {
		d := &device.Device{ID: u.id, Healthy: u.healthy, HealthDesc: u.reason}
		if u.busID != "" {
			d.HwLocality = &device.DeviceLocality{PciBusID: u.busID}
		}
		g.Devices = append(g.Devices, d)
		if u.healthy {
			healthy++
		} else {
			g.Attributes[reasonKey+u.id] = structs.NewStringAttribute(u.reason)
		}
		for key, a := range attributes(u, m) {
			merge(g.Attributes, key, a, seen[key] == 0)
			seen[key]++
		}
	}
	g.Attributes[healthyKey] = count(healthy)
	slices.SortFunc(g.Devices, func(a, b *device.Device) int { return strings.Compare(a.ID, b.ID) })
	return g
}

// merge makes an attribute of a whole group what every GPU in it can keep: the least of numbers, and nothing at all
// where words differ.
func merge(all map[string]*structs.Attribute, key string, a *structs.Attribute, first bool) {
	have, ok := all[key]
	switch {
	case first:
		all[key] = a
	case !ok:
		return
	default:
		order, comparable := have.Compare(a)
		if comparable && order > 0 && a.Bool == nil && a.String == nil {
			all[key] = a
		}
		if !comparable || order != 0 && (a.Bool != nil || a.String != nil) {
			delete(all, key)
		}
	}
}
