package nvml

import (
	"encoding/binary"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Vitals is what tells a sick GPU from a well one.
type Vitals struct {
	Failures       []Failure // calls that failed, this round's harmless ones left out
	Temperature    Reading[uint32]
	SlowdownAt     Reading[uint32] // the temperature at which the hardware throttles
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
	v.Temperature = read(r, "nvmlDeviceGetTemperature", func() (uint32, nvml.Return) { return d.handle.GetTemperature(nvml.TEMPERATURE_GPU) })
	v.SlowdownAt = read(r, "nvmlDeviceGetTemperatureThreshold", func() (uint32, nvml.Return) {
		return d.handle.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	})
	v.ClockReasons = read(r, "nvmlDeviceGetCurrentClocksThrottleReasons", d.handle.GetCurrentClocksThrottleReasons)
	v.Uncorrectable = read(r, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) {
		return d.handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	})
	remap := read(r, "nvmlDeviceGetRemappedRows", func() ([2]bool, nvml.Return) {
		_, _, pending, failed, ret := d.handle.GetRemappedRows()
		return [2]bool{pending, failed}, ret
	})
	v.RemapPending, v.RemapFailed = Reading[bool]{remap.Value[0], remap.OK}, Reading[bool]{remap.Value[1], remap.OK}
	v.RetirePending = enabled(read(r, "nvmlDeviceGetRetiredPagesPendingStatus", d.handle.GetRetiredPagesPendingStatus))
	v.RecoveryAction = d.field(r, nvml.FI_DEV_GET_GPU_RECOVERY_ACTION)
	v.Memory = d.memory(r)
	processes, failures := d.Processes()
	v.Processes = processes
	v.Failures = append(r.failures, failures...)
	return v
}

// field reads one field value as an unsigned number.
func (d Device) field(r *reader, id uint32) Reading[uint64] {
	return read(r, "nvmlDeviceGetFieldValues", func() (uint64, nvml.Return) {
		values := []nvml.FieldValue{{FieldId: id}}
		ret := d.handle.GetFieldValues(values)
		if ret == nvml.SUCCESS {
			ret = nvml.Return(values[0].NvmlReturn)
		}
		v, ok := fieldNumber(values[0])
		if ret == nvml.SUCCESS && !ok {
			ret = nvml.ERROR_NO_DATA
		}
		return v, ret
	})
}

// fieldNumber takes the number out of the union; its type says how much of it is meant. ok is false for what is no count
// of anything: NaN, less than nothing, more than fits.
func fieldNumber(v nvml.FieldValue) (number uint64, ok bool) {
	bits := binary.NativeEndian.Uint64(v.Value[:])
	low := binary.NativeEndian.Uint32(v.Value[:4])
	switch nvml.ValueType(v.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		d := math.Float64frombits(bits)
		return uint64(d), d >= 0 && d < math.MaxInt64
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		return uint64(low), low != math.MaxUint32
	case nvml.VALUE_TYPE_SIGNED_INT:
		return uint64(low), int32(low) >= 0
	case nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return bits, int64(bits) >= 0
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		return uint64(binary.NativeEndian.Uint16(v.Value[:2])), true
	}
	return bits, true
}
