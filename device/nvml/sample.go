package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Sample is what a GPU is doing. Units are NVML's: mW, mJ, MHz, °C, bytes, percent, KB/s.
type Sample struct {
	Power                                      Reading[uint32]
	Energy                                     Reading[uint64]
	PowerLimit                                 Reading[uint32]
	CoreClock, MemoryClock, VideoClock         Reading[uint32]
	Temperature                                Reading[uint32]
	MemoryTemperature                          Reading[uint64]
	FanPercent                                 Reading[uint32]
	PState                                     Reading[int]
	GPUPercent, MemoryPercent                  Reading[uint32]
	EncoderPercent, DecoderPercent             Reading[uint32]
	MemoryTotal, MemoryUsed, MemoryReserved    Reading[uint64]
	BAR1Total, BAR1Used                        Reading[uint64]
	ECCCorrected, ECCUncorrected               Reading[uint64]
	PCIeReplays                                Reading[int]
	PCIeSent, PCIeReceived                     Reading[uint32]
	NVLinkSent, NVLinkReceived                 Reading[uint64] // KiB since the driver was loaded
	RemappedCorrectable, RemappedUncorrectable Reading[int]
	ClockReasons                               Reading[uint64]
}

// Sample asks for all of them. PCIe throughput is left out: NVML measures it over 20 ms per direction and blocks meanwhile.
func (d Device) Sample() Sample {
	r := &reader{device: d}
	var s Sample
	d.samplePower(r, &s)
	d.sampleMemory(r, &s)
	d.sampleWork(r, &s)
	return s
}

func (d Device) samplePower(r *reader, s *Sample) {
	h := d.handle
	s.Power = read(r, "nvmlDeviceGetPowerUsage", h.GetPowerUsage)
	s.Energy = read(r, "nvmlDeviceGetTotalEnergyConsumption", h.GetTotalEnergyConsumption)
	s.PowerLimit = read(r, "nvmlDeviceGetEnforcedPowerLimit", h.GetEnforcedPowerLimit)
	clock := func(kind nvml.ClockType) Reading[uint32] {
		return read(r, "nvmlDeviceGetClockInfo", func() (uint32, nvml.Return) { return h.GetClockInfo(kind) })
	}
	s.CoreClock, s.MemoryClock, s.VideoClock = clock(nvml.CLOCK_SM), clock(nvml.CLOCK_MEM), clock(nvml.CLOCK_VIDEO)
	s.Temperature = read(r, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) { return h.GetTemperature(nvml.TEMPERATURE_GPU) })
	s.MemoryTemperature = d.field(r, nvml.FI_DEV_MEMORY_TEMP)
	s.FanPercent = read(r, "nvmlDeviceGetFanSpeed", h.GetFanSpeed)
	s.ClockReasons = read(r, "nvmlDeviceGetCurrentClocksThrottleReasons", h.GetCurrentClocksThrottleReasons)
	s.PState = read(r, "nvmlDeviceGetPerformanceState", func() (int, nvml.Return) {
		p, ret := h.GetPerformanceState()
		return int(p), ret
	})
}

func (d Device) sampleMemory(r *reader, s *Sample) {
	h := d.handle
	m := d.memory(r)
	s.MemoryTotal, s.MemoryUsed, s.MemoryReserved = m.Total, m.Used, m.Reserved
	bar1 := read(r, "nvmlDeviceGetBAR1MemoryInfo", h.GetBAR1MemoryInfo)
	s.BAR1Total, s.BAR1Used = known(bar1.Value.Bar1Total, bar1.OK), known(bar1.Value.Bar1Used, bar1.OK)
	errors := func(kind nvml.MemoryErrorType) Reading[uint64] {
		return read(r, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) { return h.GetTotalEccErrors(kind, nvml.VOLATILE_ECC) })
	}
	s.ECCCorrected, s.ECCUncorrected = errors(nvml.MEMORY_ERROR_TYPE_CORRECTED), errors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED)
	rows := read(r, "nvmlDeviceGetRemappedRows", func() ([2]int, nvml.Return) {
		correctable, uncorrectable, _, _, ret := h.GetRemappedRows()
		return [2]int{correctable, uncorrectable}, ret
	})
	s.RemappedCorrectable, s.RemappedUncorrectable = known(rows.Value[0], rows.OK), known(rows.Value[1], rows.OK)
}

func (d Device) sampleWork(r *reader, s *Sample) {
	h := d.handle
	rates := read(r, "nvmlDeviceGetUtilizationRates", h.GetUtilizationRates)
	s.GPUPercent, s.MemoryPercent = known(rates.Value.Gpu, rates.OK), known(rates.Value.Memory, rates.OK)
	s.EncoderPercent = read(r, "nvmlDeviceGetEncoderUtilization", func() (uint32, nvml.Return) {
		percent, _, ret := h.GetEncoderUtilization()
		return percent, ret
	})
	s.DecoderPercent = read(r, "nvmlDeviceGetDecoderUtilization", func() (uint32, nvml.Return) {
		percent, _, ret := h.GetDecoderUtilization()
		return percent, ret
	})
	s.PCIeReplays = read(r, "nvmlDeviceGetPcieReplayCounter", h.GetPcieReplayCounter)
	s.NVLinkSent = d.field(r, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX)
	s.NVLinkReceived = d.field(r, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
}
