package nvml

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Traits is what a GPU can do: limits, never what it does at the moment. Memory is in bytes, clocks in MHz, power in mW.
type Traits struct {
	Memory, MemoryReserved, BAR1 Reading[uint64]
	Unified                      bool // it has no memory of its own and uses the machine's
	ComputeMajor, ComputeMinor   Reading[int]
	Architecture                 Reading[string]
	PowerLimit                   Reading[uint32]
	SlowdownAt                   Reading[uint32] // °C at which the hardware throttles
	CoreClock, MemoryClock       Reading[uint32]
	PCIeGeneration, PCIeWidth    Reading[int]
	ECC, MIG                     Reading[bool]
	Persistence, Display         Reading[bool]
	Cores                        Reading[int]
	MemoryBusWidth               Reading[uint32]
	NVLinkClique                 Reading[string] // of an NVSwitch fabric
	NVLinkPeers                  Reading[int]    // active links
	NVLinkSwitch                 bool            // some of them to a switch
	NVLinkRemotes                []string        // bus IDs of the GPUs that the others lead to
	NumaNode                     Reading[int]    // only where the GPU's memory is a node; else sysfs knows

	links []bool // by number: active or not
}

// maxLinks is above what any GPU has (NVLINK_MAX_LINKS is 18).
const maxLinks = 18

// Traits asks for all of them, except for where NVLinks lead that are active as before: that takes two calls a link.
func (d Device) Traits(before Traits) (Traits, []Failure) {
	r := &reader{device: d}
	var t Traits
	d.readMemory(r, &t)
	d.readCompute(r, &t)
	d.readModes(r, &t)
	d.readLinks(r, &t, before)
	return t, r.failures
}

// Memory is what there is and what is in use, in bytes. Older drivers count what they reserve as used.
type Memory struct {
	Total, Used, Reserved Reading[uint64]
	unified               bool
}

// Memory asks for a GPU's or a MIG instance's.
func (d Device) Memory() (Memory, []Failure) {
	r := &reader{device: d}
	return d.memory(r), r.failures
}

func (d Device) memory(r *reader) Memory {
	v2 := read(r, "nvmlDeviceGetMemoryInfo_v2", d.handle.GetMemoryInfo_v2)
	if v2.OK {
		return Memory{Total: known(v2.Value.Total, true), Used: known(v2.Value.Used, true), Reserved: known(v2.Value.Reserved, true)}
	}
	// GPUs that share the machine's memory, such as GB10, answer neither (hashicorp/nomad-device-nvidia#87 and #90).
	unified := false
	v1 := read(r, "nvmlDeviceGetMemoryInfo", func() (nvml.Memory, nvml.Return) {
		m, ret := d.handle.GetMemoryInfo()
		unified = ret == nvml.ERROR_NOT_SUPPORTED
		return m, ret
	})
	return Memory{Total: known(v1.Value.Total, v1.OK), Used: known(v1.Value.Used, v1.OK), unified: unified}
}

// BAR1 is how much of its memory a GPU or MIG instance maps through PCIe at most, in bytes.
func (d Device) BAR1() (Reading[uint64], []Failure) {
	r := &reader{device: d}
	return d.bar1(r), r.failures
}

func (d Device) bar1(r *reader) Reading[uint64] {
	bar1 := read(r, "nvmlDeviceGetBAR1MemoryInfo", d.handle.GetBAR1MemoryInfo)
	return known(bar1.Value.Bar1Total, bar1.OK)
}

func (d Device) readMemory(r *reader, t *Traits) {
	m := d.memory(r)
	t.Memory, t.MemoryReserved, t.Unified = m.Total, m.Reserved, m.unified
	t.BAR1 = d.bar1(r)
	t.MemoryBusWidth = read(r, "nvmlDeviceGetMemoryBusWidth", d.handle.GetMemoryBusWidth)
	node := read(r, "nvmlDeviceGetNumaNodeId", d.handle.GetNumaNodeId)
	if node.OK && node.Value >= 0 {
		t.NumaNode = node
	}
}

func (d Device) readCompute(r *reader, t *Traits) {
	capability := read(r, "nvmlDeviceGetCudaComputeCapability", func() ([2]int, nvml.Return) {
		major, minor, ret := d.handle.GetCudaComputeCapability()
		return [2]int{major, minor}, ret
	})
	t.ComputeMajor, t.ComputeMinor = known(capability.Value[0], capability.OK), known(capability.Value[1], capability.OK)
	arch := read(r, "nvmlDeviceGetArchitecture", d.handle.GetArchitecture)
	if arch.OK {
		t.Architecture = architecture(arch.Value)
	}
	t.PowerLimit = read(r, "nvmlDeviceGetEnforcedPowerLimit", d.handle.GetEnforcedPowerLimit)
	if !t.PowerLimit.OK {
		t.PowerLimit = read(r, "nvmlDeviceGetPowerManagementLimit", d.handle.GetPowerManagementLimit)
	}
	t.SlowdownAt = read(r, "nvmlDeviceGetTemperatureThreshold", func() (uint32, nvml.Return) {
		return d.handle.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	})
	t.CoreClock = read(r, "nvmlDeviceGetMaxClockInfo", func() (uint32, nvml.Return) { return d.handle.GetMaxClockInfo(nvml.CLOCK_SM) })
	t.MemoryClock = read(r, "nvmlDeviceGetMaxClockInfo", func() (uint32, nvml.Return) { return d.handle.GetMaxClockInfo(nvml.CLOCK_MEM) })
	t.PCIeGeneration = read(r, "nvmlDeviceGetMaxPcieLinkGeneration", d.handle.GetMaxPcieLinkGeneration)
	t.PCIeWidth = read(r, "nvmlDeviceGetMaxPcieLinkWidth", d.handle.GetMaxPcieLinkWidth)
	t.Cores = read(r, "nvmlDeviceGetNumGpuCores", d.handle.GetNumGpuCores)
}

func architecture(a nvml.DeviceArchitecture) Reading[string] {
	names := map[nvml.DeviceArchitecture]string{
		nvml.DEVICE_ARCH_KEPLER: "kepler", nvml.DEVICE_ARCH_MAXWELL: "maxwell", nvml.DEVICE_ARCH_PASCAL: "pascal",
		nvml.DEVICE_ARCH_VOLTA: "volta", nvml.DEVICE_ARCH_TURING: "turing", nvml.DEVICE_ARCH_AMPERE: "ampere", nvml.DEVICE_ARCH_ADA: "ada",
		nvml.DEVICE_ARCH_HOPPER: "hopper", nvml.DEVICE_ARCH_BLACKWELL: "blackwell", nvml.DEVICE_ARCH_RUBIN: "rubin",
	}
	name, ok := names[a]
	return Reading[string]{name, ok}
}

func (d Device) readModes(r *reader, t *Traits) {
	t.ECC = read(r, "nvmlDeviceGetEccMode", func() (bool, nvml.Return) {
		current, _, ret := d.handle.GetEccMode()
		return current == nvml.FEATURE_ENABLED, ret
	})
	t.MIG = read(r, "nvmlDeviceGetMigMode", func() (bool, nvml.Return) {
		current, _, ret := d.handle.GetMigMode()
		return current == nvml.DEVICE_MIG_ENABLE, ret
	})
	t.Persistence = enabled(read(r, "nvmlDeviceGetPersistenceMode", d.handle.GetPersistenceMode))
	t.Display = enabled(read(r, "nvmlDeviceGetDisplayMode", d.handle.GetDisplayMode))
}

func enabled(state Reading[nvml.EnableState]) Reading[bool] {
	return Reading[bool]{state.Value == nvml.FEATURE_ENABLED, state.OK}
}

func (d Device) readLinks(r *reader, t *Traits, before Traits) {
	active := 0
	for link := range maxLinks {
		state := read(r, "nvmlDeviceGetNvLinkState", func() (nvml.EnableState, nvml.Return) { return d.handle.GetNvLinkState(link) })
		if !state.OK {
			break
		}
		on := state.Value == nvml.FEATURE_ENABLED
		t.links = append(t.links, on)
		if on {
			active++
		}
	}
	if active == 0 {
		return
	}
	if slices.Equal(t.links, before.links) {
		t.NVLinkSwitch, t.NVLinkRemotes = before.NVLinkSwitch, before.NVLinkRemotes
	} else {
		d.readRemotes(r, t)
	}
	t.NVLinkPeers = Of(active)
	fabric := read(r, "nvmlDeviceGetGpuFabricInfo", d.handle.GetGpuFabricInfo)
	if fabric.OK && fabric.Value.State == nvml.GPU_FABRIC_STATE_COMPLETED {
		t.NVLinkClique = Of(fmt.Sprintf("%s.%d", hex.EncodeToString(fabric.Value.ClusterUuid[:]), fabric.Value.CliqueId))
	}
}

func (d Device) readRemotes(r *reader, t *Traits) {
	for link, on := range t.links {
		if on {
			d.readRemote(r, link, t)
		}
	}
}

// readRemote notes where an active link leads.
func (d Device) readRemote(r *reader, link int, t *Traits) {
	kind := read(r, "nvmlDeviceGetNvLinkRemoteDeviceType", func() (nvml.IntNvLinkDeviceType, nvml.Return) { return d.handle.GetNvLinkRemoteDeviceType(link) })
	if kind.OK && kind.Value == nvml.NVLINK_DEVICE_TYPE_SWITCH {
		t.NVLinkSwitch = true
		return
	}
	if !d.lib.has("nvmlDeviceGetNvLinkRemotePciInfo_v2") || kind.OK && kind.Value != nvml.NVLINK_DEVICE_TYPE_GPU {
		return
	}
	far := read(r, "nvmlDeviceGetNvLinkRemotePciInfo_v2", func() (nvml.PciInfo, nvml.Return) { return d.handle.GetNvLinkRemotePciInfo(link) })
	if far.OK {
		t.NVLinkRemotes = append(t.NVLinkRemotes, sysfsBusID(far.Value.BusId, far.Value.BusIdLegacy))
	}
}
