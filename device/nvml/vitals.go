package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Vitals is what tells a sick GPU from a well one.
type Vitals struct {
	Failures       []Failure // calls that failed, this round's harmless ones left out
	Temperature    Reading[uint32]
	SlowdownAt     Reading[uint32] // a trait, which the caller knows
	ClockReasons   Reading[uint64] // NVML's bit set of why clocks are low
	Uncorrectable  Reading[uint64] // ECC errors since the driver was loaded or the GPU reset
	RemapPending   Reading[bool]
	RemapFailed    Reading[bool]
	RetirePending  Reading[bool]
	RecoveryAction Reading[uint64] // 0 none; drivers from 570 on
	Processes      []Process
	Memory         Memory
}

// Clock reasons that the hardware itself imposes.
const (
	HWThermalSlowdown = uint64(0x40)
	HWPowerBrake      = uint64(0x80)
)

// Vitals asks for all of them.
func (d Device) Vitals() Vitals {
	r := &reader{device: d}
	var v Vitals
	v.Temperature = d.temperature(r)
	v.ClockReasons = read(r, "nvmlDeviceGetCurrentClocksThrottleReasons", d.handle.GetCurrentClocksThrottleReasons)
	f := d.fields(r, nvml.FI_DEV_ECC_DBE_VOL_TOTAL, nvml.FI_DEV_REMAPPED_PENDING, nvml.FI_DEV_REMAPPED_FAILURE, nvml.FI_DEV_RETIRED_PENDING,
		nvml.FI_DEV_GET_GPU_RECOVERY_ACTION)
	v.Uncorrectable, v.RecoveryAction = f[nvml.FI_DEV_ECC_DBE_VOL_TOTAL], f[nvml.FI_DEV_GET_GPU_RECOVERY_ACTION]
	v.RemapPending, v.RemapFailed = some(f[nvml.FI_DEV_REMAPPED_PENDING]), some(f[nvml.FI_DEV_REMAPPED_FAILURE])
	v.RetirePending = some(f[nvml.FI_DEV_RETIRED_PENDING])
	v.Memory = d.memory(r)
	processes, failures := d.Processes()
	v.Processes = processes
	v.Failures = append(r.failures, failures...)
	return v
}

// some tells whether a count is above nothing.
func some(count Reading[uint64]) Reading[bool] {
	return Reading[bool]{Value: count.Value > 0, OK: count.OK}
}
