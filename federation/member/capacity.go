package member

import (
	"sort"

	"github.com/hashicorp/nomad/api"
)

// room is what is left on one node.
type room struct {
	node    *api.Node
	cpu     int64
	memory  int64
	disk    int64
	devices map[string]int
}

// usable tells whether a node takes new work.
func usable(node *api.Node) bool {
	return node != nil && node.Status == api.NodeStatusReady && !node.Drain &&
		node.SchedulingEligibility == api.NodeSchedulingEligible && node.NodeResources != nil
}

// rooms returns what is left on each usable node, before reservations.
func rooms(s *snapshot) []*room {
	byNode := make(map[string]*room, len(s.nodes))
	used := map[string]map[string]bool{}
	list := make([]*room, 0, len(s.nodes))
	for _, node := range s.nodes {
		if !usable(node) {
			continue
		}
		r := emptyRoom(node)
		byNode[node.ID] = r
		used[node.ID] = map[string]bool{}
		list = append(list, r)
	}
	for _, allocation := range s.allocations {
		r := byNode[allocation.NodeID]
		if r != nil && alive(allocation) {
			r.take(allocation.AllocatedResources, used[allocation.NodeID])
		}
	}
	for _, r := range list {
		r.countDevices(used[r.node.ID])
	}
	return list
}

func emptyRoom(node *api.Node) *room {
	r := &room{
		node: node, cpu: node.NodeResources.Cpu.CpuShares, memory: node.NodeResources.Memory.MemoryMB,
		disk: node.NodeResources.Disk.DiskMB, devices: map[string]int{},
	}
	if reserved := node.ReservedResources; reserved != nil {
		r.cpu -= int64(reserved.Cpu.CpuShares)
		r.memory -= int64(reserved.Memory.MemoryMB)
		r.disk -= int64(reserved.Disk.DiskMB)
	}
	return r
}

func (r *room) take(resources *api.AllocatedResources, used map[string]bool) {
	if resources == nil {
		return
	}
	r.disk -= resources.Shared.DiskMB
	for _, task := range resources.Tasks {
		r.cpu -= task.Cpu.CpuShares
		r.memory -= task.Memory.MemoryMB
		for _, device := range task.Devices {
			for _, id := range device.DeviceIDs {
				used[deviceName(device.Vendor, device.Type, device.Name)+"\x00"+id] = true
			}
		}
	}
}

func (r *room) countDevices(used map[string]bool) {
	for _, device := range r.node.NodeResources.Devices {
		name := deviceName(device.Vendor, device.Type, device.Name)
		for _, instance := range device.Instances {
			if instance.Healthy && !used[name+"\x00"+instance.ID] {
				r.devices[name]++
			}
		}
	}
}

func deviceName(vendor, kind, name string) string { return vendor + "/" + kind + "/" + name }

// demand is what one allocation of a group asks for.
type demand struct {
	cpu, memory, disk int64
	devices           []deviceAsk
}

type deviceAsk struct {
	name  string // "gpu", "nvidia/gpu" or "nvidia/gpu/model", as in a jobspec
	count int
}

// Nomad's own defaults for a task and a group that name no resources.
const (
	defaultCPU    = 100
	defaultMemory = 300
	defaultDisk   = 300
)

func demandOf(group *api.TaskGroup) demand {
	d := demand{disk: defaultDisk}
	if group.EphemeralDisk != nil {
		d.disk = int64(deref(group.EphemeralDisk.SizeMB, defaultDisk))
	}
	for _, task := range group.Tasks {
		if task.Resources == nil {
			d.cpu, d.memory = d.cpu+defaultCPU, d.memory+defaultMemory
			continue
		}
		d.cpu += int64(deref(task.Resources.CPU, defaultCPU))
		d.memory += int64(deref(task.Resources.MemoryMB, defaultMemory))
		for _, device := range task.Resources.Devices {
			d.devices = append(d.devices, deviceAsk{name: device.Name, count: int(deref(device.Count, 1))})
		}
	}
	return d
}

// fits puts one allocation into a room if it has the space; constraints are Nomad's own plan to judge.
func (r *room) fits(d demand) bool {
	if r.cpu < d.cpu || r.memory < d.memory || r.disk < d.disk {
		return false
	}
	left := make(map[string]int, len(r.devices))
	for name, count := range r.devices {
		left[name] = count
	}
	for _, ask := range d.devices {
		name, ok := pickDevice(left, ask)
		if !ok {
			return false
		}
		left[name] -= ask.count
	}
	r.cpu, r.memory, r.disk, r.devices = r.cpu-d.cpu, r.memory-d.memory, r.disk-d.disk, left
	return true
}

// pickDevice finds the device group with the least left that still satisfies an ask; like Nomad, never two groups.
func pickDevice(left map[string]int, ask deviceAsk) (string, bool) {
	best, found := "", false
	for name, count := range left {
		if count < ask.count || !deviceMatches(name, ask.name) {
			continue
		}
		if !found || count < left[best] || (count == left[best] && name < best) {
			best, found = name, true
		}
	}
	return best, found
}

// fill puts allocations of a group into the rooms, the fullest first, and returns how many found no place.
func fill(list []*room, d demand, count int) int {
	sort.SliceStable(list, func(i, j int) bool { return total(list[i].devices) < total(list[j].devices) })
	for _, r := range list {
		for count > 0 && r.fits(d) {
			count--
		}
	}
	return count
}

func total(devices map[string]int) int {
	sum := 0
	for _, count := range devices {
		sum += count
	}
	return sum
}
