package device

import (
	"fmt"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/device/nvml"
)

const mib = 1 << 20

// attributes of one unit. The first block bears the names, types and units of HashiCorp's plugin; theirs are what the
// GPU did at the moment of asking, ours its limits. What a GPU does not tell is left out.
func attributes(u unit, m nvml.Machine) map[string]*structs.Attribute {
	t := u.traits
	all := make(map[string]*structs.Attribute)
	put(all, "memory", t.Memory, func(v uint64) *structs.Attribute { return whole(v/mib, structs.UnitMiB) })
	put(all, "bar1", t.BAR1, func(v uint64) *structs.Attribute { return whole(v/mib, structs.UnitMiB) })
	put(all, "power", t.PowerLimit, func(v uint32) *structs.Attribute { return whole(v/1000, structs.UnitW) })
	put(all, "cores_clock", t.CoreClock, func(v uint32) *structs.Attribute { return whole(v, structs.UnitMHz) })
	put(all, "memory_clock", t.MemoryClock, func(v uint32) *structs.Attribute { return whole(v, structs.UnitMHz) })
	put(all, "pci_bandwidth", bandwidth(t), func(v int) *structs.Attribute { return whole(v, structs.UnitMBPerS) })
	put(all, "persistence_mode", t.Persistence, enabledWord)
	put(all, "display_state", t.Display, enabledWord)
	if m.DriverVersion != "" {
		all["driver_version"] = structs.NewStringAttribute(m.DriverVersion)
	}

	if m.CUDAVersion > 0 {
		all["cuda_version"] = structs.NewFloatAttribute(float64(m.CUDAVersion/1000*10+m.CUDAVersion%1000/10)/10, "")
	}
	if t.Memory.OK && t.MemoryReserved.OK && t.MemoryReserved.Value <= t.Memory.Value {
		all["memory_usable"] = whole((t.Memory.Value-t.MemoryReserved.Value)/mib, structs.UnitMiB)
	}
	if t.Unified {
		all["unified_memory"] = structs.NewBoolAttribute(true)
	}
	if t.ComputeMajor.OK {
		all["compute_capability"] = structs.NewFloatAttribute(float64(t.ComputeMajor.Value*10+t.ComputeMinor.Value)/10, "")
	}
	put(all, "architecture", t.Architecture, structs.NewStringAttribute)
	put(all, "ecc", t.ECC, structs.NewBoolAttribute)
	put(all, "mig", t.MIG, structs.NewBoolAttribute)
	put(all, "cores", t.Cores, count[int])
	put(all, "memory_bus_width", t.MemoryBusWidth, count[uint32])
	put(all, "pci_generation", t.PCIeGeneration, count[int])
	put(all, "pci_width", t.PCIeWidth, count[int])
	put(all, "numa_node", u.place.Numa, count[int])
	put(all, "nvlink_peers", t.NVLinkPeers, count[int])
	put(all, "nvlink_clique", u.place.NVLink, structs.NewStringAttribute)
	if u.replicas > 0 {
		all["replicas"] = count(u.replicas)
		all["sharing_strategy"] = structs.NewStringAttribute(u.strategy())
	}
	if u.profile != "" {
		all["mig_profile"] = structs.NewStringAttribute(u.profile)
	}
	return all
}

func put[T any](all map[string]*structs.Attribute, key string, r nvml.Reading[T], make func(T) *structs.Attribute) {
	if r.OK {
		all[key] = make(r.Value)
	}
}

type number interface {
	~int | ~int64 | ~uint32 | ~uint64
}

func whole[T number](v T, unit string) *structs.Attribute {
	return structs.NewIntAttribute(int64(v), unit)
}
func count[T number](v T) *structs.Attribute { return structs.NewIntAttribute(int64(v), "") }

func enabledWord(on bool) *structs.Attribute {
	if on {
		return structs.NewStringAttribute("Enabled")
	}
	return structs.NewStringAttribute("Disabled")
}

// bandwidth of the widest and fastest link that the GPU and its slot agree on, in MB/s each way.
func bandwidth(t nvml.Traits) nvml.Reading[int] {
	perLane := []int{0, 250, 500, 985, 1969, 3938, 7563}
	g := t.PCIeGeneration
	if !g.OK || !t.PCIeWidth.OK || g.Value < 1 || g.Value >= len(perLane) {
		return nvml.Reading[int]{}
	}
	return nvml.Of(perLane[g.Value] * t.PCIeWidth.Value)
}

// envKey is the variable that carries one granted device. Each has its own, because Nomad merges the variables of
// several device blocks with the last one winning.
func envKey(id string) string {
	key := []byte("PANGAEA_GPU_" + id)
	for i, c := range key {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			key[i] = '_'
		}
	}
	return string(key)
}

// reservationError is what a task's owner reads when a GPU cannot be had.
func reservationError(id, why string) error { return fmt.Errorf("cannot reserve GPU %q: %s", id, why) }
