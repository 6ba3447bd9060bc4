package device

import (
	"strings"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/device/nvml"
)

// memoryState is the statistic that sums a GPU up.
const memoryState = "Memory state"

// statistics names and measures everything that a sample holds; the names that HashiCorp's plugin has are theirs.
func statistics(s nvml.Sample, lastXid uint64) map[string]*structs.StatValue {
	all := make(map[string]*structs.StatValue, 64)
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
	put1(all, "Temperature", s.Temperature, "C", "Temperature of the chip")
	put1(all, "Memory temperature", s.MemoryTemperature, "C", "Temperature of the memory")
	put1(all, "Fan speed", s.FanPercent, "%", "Speed of the fan")
	put1(all, "Performance state", s.PState, "", "0 is the highest")
	put1(all, "GPU utilization", s.GPUPercent, "%", "Time during which a kernel ran")
	put1(all, "Memory utilization", s.MemoryPercent, "%", "Time during which memory was read or written")
	put1(all, "Encoder utilization", s.EncoderPercent, "%", "Use of the video encoder")
	put1(all, "Decoder utilization", s.DecoderPercent, "%", "Use of the video decoder")
	put1(all, "Memory reserved", scaled(s.MemoryReserved, mib), "MiB", "Memory that the driver keeps for itself")
	if s.ClockReasons.OK {
		words := clockReasons(s.ClockReasons.Value)
		all["Clock reasons"] = &structs.StatValue{StringVal: &words, Desc: "Why clocks are low"}
	}
	put1(all, "vGPU license", s.Licensed, "", "1 when a virtual GPU has its license")
	errorStatistics(all, s, lastXid)
	linkStatistics(all, s)
	activityStatistics(all, s.Activity)
	return all
}

func errorStatistics(all map[string]*structs.StatValue, s nvml.Sample, lastXid uint64) {
	put1(all, "Last Xid", nvml.Of(lastXid), "", "The last error that the driver reported, 0 for none")
	put1(all, "ECC L1 errors", s.ECCL1, "#", "Corrected errors of the L1 cache since the driver was loaded")
	put1(all, "ECC L2 errors", s.ECCL2, "#", "Corrected errors of the L2 cache since the driver was loaded")
	put1(all, "ECC memory errors", s.ECCMemory, "#", "Corrected errors of the memory since the driver was loaded")
	put1(all, "ECC corrected errors", s.ECCCorrected, "#", "Corrected errors since the driver was loaded")
	put1(all, "ECC uncorrected errors", s.ECCUncorrected, "#", "Uncorrected errors since the driver was loaded")
	put1(all, "ECC corrected errors ever", s.ECCCorrectedEver, "#", "Corrected errors of the board's life")
	put1(all, "ECC uncorrected errors ever", s.ECCUncorrectedEver, "#", "Uncorrected errors of the board's life")
	put1(all, "Retired pages (single-bit)", s.RetiredSingle, "#", "Pages retired after single-bit errors")
	put1(all, "Retired pages (double-bit)", s.RetiredDouble, "#", "Pages retired after double-bit errors")
	put1(all, "Page retirement pending", s.RetirePending, "", "1 when pages wait for a reset to be retired")
	put1(all, "Remapped rows (corrected)", s.RemappedCorrectable, "#", "Rows replaced after corrected errors")
	put1(all, "Remapped rows (uncorrected)", s.RemappedUncorrectable, "#", "Rows replaced after uncorrected errors")
	put1(all, "Row remap pending", s.RemapPending, "", "1 when rows wait for a reset to be replaced")
	put1(all, "Row remap failure", s.RemapFailed, "", "1 when rows could not be replaced")
	put1(all, "Slowed by power limit", s.Slowed.Power, "ns", "Time since the driver was loaded")
	put1(all, "Slowed by heat", s.Slowed.Thermal, "ns", "Time since the driver was loaded")
	put1(all, "Slowed by sync boost", s.Slowed.SyncBoost, "ns", "Time since the driver was loaded")
	put1(all, "Slowed by board limit", s.Slowed.Board, "ns", "Time since the driver was loaded")
	put1(all, "Slowed by lack of work", s.Slowed.LowUse, "ns", "Time since the driver was loaded")
	put1(all, "Slowed for reliability", s.Slowed.Reliability, "ns", "Time since the driver was loaded")
}

func linkStatistics(all map[string]*structs.StatValue, s nvml.Sample) {
	put1(all, "PCIe replays", s.PCIeReplays, "#", "PCIe packets sent again")
	put1(all, "NVLink sent", s.NVLinkSent, "KiB", "Data sent over NVLink since the driver was loaded")
	put1(all, "NVLink received", s.NVLinkReceived, "KiB", "Data received over NVLink since the driver was loaded")
	put1(all, "NVLink bandwidth", s.NVLinkRate, "KiB/s", "Data over NVLink both ways")
	put1(all, "NVLink flit errors", s.NVLinkFlitErrors, "#", "Flow-control CRC errors")
	put1(all, "NVLink data errors", s.NVLinkDataErrors, "#", "Data CRC errors")
	put1(all, "NVLink replays", s.NVLinkReplays, "#", "NVLink packets sent again")
	put1(all, "NVLink recoveries", s.NVLinkRecoveries, "#", "Times that a link was brought up again")
}

// activityStatistics are there from Hopper on.
func activityStatistics(all map[string]*structs.StatValue, a nvml.Activity) {
	put1(all, "Graphics engine activity", a.Graphics, "%", "Time during which the engine for graphics and compute was active")
	put1(all, "SM activity", a.SM, "%", "Cycles in which a multiprocessor had work")
	put1(all, "SM occupancy", a.Occupancy, "%", "Warps on the multiprocessors of those that fit")
	put1(all, "Tensor activity", a.Tensor, "%", "Cycles in which tensor cores were active")
	put1(all, "DRAM activity", a.DRAM, "%", "Cycles in which memory was read or written")
	put1(all, "FP64 activity", a.FP64, "%", "Cycles in which FP64 units were active")
	put1(all, "FP32 activity", a.FP32, "%", "Cycles in which FP32 units were active")
	put1(all, "FP16 activity", a.FP16, "%", "Cycles in which FP16 units were active")
	put1(all, "PCIe sending", a.PCIeSentRate, "B/s", "Data sent over PCIe")
	put1(all, "PCIe receiving", a.PCIeReceivedRate, "B/s", "Data received over PCIe")
	put1(all, "NVLink sending", a.NVLinkSentRate, "B/s", "Data sent over NVLink")
	put1(all, "NVLink receiving", a.NVLinkReceivedRate, "B/s", "Data received over NVLink")
}

// clockReasons puts NVML's bits into words.
func clockReasons(bits uint64) string {
	names := []string{
		"idle", "clocks set by an application", "power limit", "hardware slowdown", "sync boost", "heat", "heat (hardware)", "power brake", "display",
	}
	var words []string
	for i, name := range names {
		if bits&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func value(v int64, unit, desc string) *structs.StatValue {
	return &structs.StatValue{IntNumeratorVal: &v, Unit: unit, Desc: desc}
}

func put1[T number | float64](all map[string]*structs.StatValue, name string, r nvml.Reading[T], unit, desc string) {
	if !r.OK {
		return
	}
	real, ok := any(r.Value).(float64)
	if ok {
		all[name] = &structs.StatValue{FloatNumeratorVal: &real, Unit: unit, Desc: desc}
		return
	}
	all[name] = value(int64(r.Value), unit, desc)
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
