package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Sample is what a GPU is doing. Units are NVML's: mW, mJ, MHz, °C, bytes, percent.
type Sample struct {
	Power                                   Reading[uint32]
	Energy                                  Reading[uint64]
	CoreClock, MemoryClock                  Reading[uint32]
	Temperature                             Reading[uint32]
	MemoryTemperature                       Reading[uint64]
	ClockReasons                            Reading[uint64]
	MemoryTotal, MemoryUsed, MemoryReserved Reading[uint64]
	GPUPercent, MemoryPercent               Reading[uint32]
	EncoderPercent, DecoderPercent          Reading[uint32]
	ECCCorrected, ECCUncorrected            Reading[uint64] // since the driver was loaded
	PCIeReplays                             Reading[uint64]
	NVLinkSent, NVLinkReceived              Reading[uint64]  // KiB since the driver was loaded
	NVLinkRate                              Reading[float64] // both ways, KiB/s since the sample before
	Counters
	Activity
}

// sample asks for what changes from second to second: ten calls, and what more they can tell in batches. PCIe throughput
// is not asked: NVML measures it over 20 ms per direction and blocks meanwhile; [Activity] has it where it is free.
func (d Device) sample(r *reader) Sample {
	h := d.handle
	var s Sample
	s.Power = read(r, "nvmlDeviceGetPowerUsage", h.GetPowerUsage)
	clock := func(kind nvml.ClockType) Reading[uint32] {
		return read(r, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return h.GetClockInfo(kind) })
	}
	s.CoreClock, s.MemoryClock = clock(nvml.CLOCK_SM), clock(nvml.CLOCK_MEM)
	s.Temperature = d.temperature(r)
	s.ClockReasons = read(r, "nvmlDeviceGetCurrentClocksThrottleReasons", h.GetCurrentClocksThrottleReasons)
	m := d.memory(r)
	s.MemoryTotal, s.MemoryUsed, s.MemoryReserved = m.Total, m.Used, m.Reserved
	rates := read(r, "nvmlDeviceGetUtilizationRates", h.GetUtilizationRates)
	s.GPUPercent, s.MemoryPercent = known(rates.Value.Gpu, rates.OK), known(rates.Value.Memory, rates.OK)
	s.EncoderPercent = percent(r, "nvmlDeviceGetEncoderUtilization", h.GetEncoderUtilization)
	s.DecoderPercent = percent(r, "nvmlDeviceGetDecoderUtilization", h.GetDecoderUtilization)
	f := d.fields(r, nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION, nvml.FI_DEV_MEMORY_TEMP, nvml.FI_DEV_ECC_SBE_VOL_TOTAL, nvml.FI_DEV_ECC_DBE_VOL_TOTAL,
		nvml.FI_DEV_PCIE_REPLAY_COUNTER, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
	s.Energy, s.MemoryTemperature = f[nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION], f[nvml.FI_DEV_MEMORY_TEMP]
	s.ECCCorrected, s.ECCUncorrected = f[nvml.FI_DEV_ECC_SBE_VOL_TOTAL], f[nvml.FI_DEV_ECC_DBE_VOL_TOTAL]
	s.PCIeReplays = f[nvml.FI_DEV_PCIE_REPLAY_COUNTER]
	s.NVLinkSent, s.NVLinkReceived = f[nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX], f[nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX]
	return s
}

func percent(r *reader, symbol string, call func() (uint32, uint32, nvml.Return)) Reading[uint32] {
	return read(r, symbol, func() (uint32, nvml.Return) {
		v, _, ret := call()
		return v, ret
	})
}

func (d Device) temperature(r *reader) Reading[uint32] {
	return read(r, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) { return d.handle.GetTemperature(nvml.TEMPERATURE_GPU) })
}
