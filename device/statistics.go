package device

import (
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/device/nvml"
)

// memoryState is the statistic that sums a GPU up.
const memoryState = "Memory state"

// statistics names and measures everything that a sample holds; the names that HashiCorp's plugin has are theirs.
func statistics(s nvml.Sample) map[string]*structs.StatValue {
	all := make(map[string]*structs.StatValue, 32)
	share(all, memoryState, s.MemoryUsed, s.MemoryTotal, "MiB", "Memory in use and in total")
	share(all, "BAR1 buffer state", s.BAR1Used, s.BAR1Total, "MiB", "Memory mapped through PCIe, in use and in total")
	power := scaled(s.Power, 1000)
	limit := scaled(s.PowerLimit, 1000)
	if power.OK && limit.OK {
		v := value(power.Value, "W", "Power drawn and allowed")
		v.IntDenominatorVal = &limit.Value
		all["Power usage"] = v
	} else {
		put1(all, "Power usage", power, "W", "Power drawn")
	}
	put1(all, "Energy", s.Energy, "mJ", "Energy drawn since the driver was loaded")
	put1(all, "SM clock", s.CoreClock, "MHz", "Clock of the cores")
	put1(all, "Memory clock", s.MemoryClock, "MHz", "Clock of the memory")
	put1(all, "Video clock", s.VideoClock, "MHz", "Clock of the video engines")
	put1(all, "Temperature", s.Temperature, "C", "Temperature of the chip")
	put1(all, "Memory temperature", s.MemoryTemperature, "C", "Temperature of the memory")
	put1(all, "Fan speed", s.FanPercent, "%", "Speed of the fan")
	put1(all, "Performance state", s.PState, "", "0 is the highest")
	put1(all, "GPU utilization", s.GPUPercent, "%", "Time during which a kernel ran")
	put1(all, "Memory utilization", s.MemoryPercent, "%", "Time during which memory was read or written")
	put1(all, "Encoder utilization", s.EncoderPercent, "%", "Use of the video encoder")
	put1(all, "Decoder utilization", s.DecoderPercent, "%", "Use of the video decoder")
	put1(all, "Memory reserved", scaled(s.MemoryReserved, mib), "MiB", "Memory that the driver keeps for itself")
	put1(all, "ECC memory errors", s.ECCCorrected, "#", "Corrected errors since the driver was loaded")
	put1(all, "ECC uncorrected errors", s.ECCUncorrected, "#", "Uncorrected errors since the driver was loaded")
	put1(all, "Remapped rows (corrected)", s.RemappedCorrectable, "#", "Rows replaced after corrected errors")
	put1(all, "Remapped rows (uncorrected)", s.RemappedUncorrectable, "#", "Rows replaced after uncorrected errors")
	put1(all, "PCIe replays", s.PCIeReplays, "#", "PCIe packets sent again")
	put1(all, "NVLink sent", s.NVLinkSent, "KiB", "Data sent over NVLink since the driver was loaded")
	put1(all, "NVLink received", s.NVLinkReceived, "KiB", "Data received over NVLink since the driver was loaded")
	put1(all, "Clock reasons", s.ClockReasons, "", "NVML's bits for why clocks are low")
	return all
}

func value(v int64, unit, desc string) *structs.StatValue {
	return &structs.StatValue{IntNumeratorVal: &v, Unit: unit, Desc: desc}
}

func put1[T number](all map[string]*structs.StatValue, name string, r nvml.Reading[T], unit, desc string) {
	if r.OK {
		all[name] = value(int64(r.Value), unit, desc)
	}
}

func share(all map[string]*structs.StatValue, name string, used, total nvml.Reading[uint64], unit, desc string) {
	if !used.OK || !total.OK {
		return
	}
	v := value(int64(used.Value/mib), unit, desc)
	of := int64(total.Value / mib)
	v.IntDenominatorVal = &of
	all[name] = v
}

func scaled[T number](r nvml.Reading[T], by T) nvml.Reading[int64] {
	return nvml.Reading[int64]{Value: int64(r.Value / by), OK: r.OK}
}
