package nvml

import (
	"encoding/binary"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// allLinks is the scope of NVLink's counters that sums them up over a GPU's links; scope 0 would be the first link alone.
const allLinks = math.MaxUint32

// fields reads many field values in one call, each a number or absent.
func (d Device) fields(r *reader, ids ...uint32) map[uint32]Reading[uint64] {
	const symbol = "nvmlDeviceGetFieldValues"
	asked := make([]nvml.FieldValue, len(ids))
	for i, id := range ids {
		asked[i] = nvml.FieldValue{FieldId: id}
		if id == nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX || id == nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX {
			asked[i].ScopeId = allLinks
		}
	}
	answered := read(r, symbol, func() (bool, nvml.Return) { return true, d.handle.GetFieldValues(asked) })
	all := make(map[uint32]Reading[uint64], len(ids))
	if !answered.OK {
		return all
	}
	for _, v := range asked {
		ret := nvml.Return(v.NvmlReturn)
		if ret != nvml.SUCCESS {
			r.fail(symbol, ret)
			continue
		}
		number, ok := fieldNumber(v)
		all[v.FieldId] = known(number, ok)
	}
	return all
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
