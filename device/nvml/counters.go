package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Counters is what changes rarely or matters slowly.
type Counters struct {
	PowerLimit                                 Reading[uint32]
	FanPercent                                 Reading[uint32]
	PState                                     Reading[int]
	BAR1Total, BAR1Used                        Reading[uint64]
	ECCL1, ECCL2, ECCMemory                    Reading[uint64] // corrected, since the driver was loaded
	ECCCorrectedEver, ECCUncorrectedEver       Reading[uint64] // over the board's life
	RetiredSingle, RetiredDouble               Reading[uint64] // pages, by the kind of error
	RetirePending                              Reading[uint64]
	RemappedCorrectable, RemappedUncorrectable Reading[uint64]
	RemapPending, RemapFailed                  Reading[uint64]
	NVLinkFlitErrors, NVLinkDataErrors         Reading[uint64]
	NVLinkReplays, NVLinkRecoveries            Reading[uint64]
	Slowed                                     Slowed
	Licensed                                   Reading[uint64] // for vGPU: 1, or 0 without need or without licence
}

// Slowed is how long clocks were held down, in ns since the driver was loaded, by reason.
type Slowed struct {
	Power, Thermal, SyncBoost, Board, LowUse, Reliability Reading[uint64]
}

func (d Device) counters(r *reader) Counters {
	h := d.handle
	var c Counters
	c.PowerLimit = read(r, "nvmlDeviceGetEnforcedPowerLimit", h.GetEnforcedPowerLimit)
	c.FanPercent = read(r, "nvmlDeviceGetFanSpeed", h.GetFanSpeed)
	c.PState = read(r, "nvmlDeviceGetPerformanceState", func() (int, nvml.Return) {
		p, ret := h.GetPerformanceState()
		return int(p), ret
	})
	bar1 := read(r, "nvmlDeviceGetBAR1MemoryInfo", h.GetBAR1MemoryInfo)
	c.BAR1Total, c.BAR1Used = known(bar1.Value.Bar1Total, bar1.OK), known(bar1.Value.Bar1Used, bar1.OK)
	c.Licensed = d.licensed(r)
	want := c.byField()
	ids := make([]uint32, 0, len(want))
	for id := range want {
		ids = append(ids, id)
	}
	for id, reading := range d.fields(r, ids...) {
		*want[id] = reading
	}
	return c
}

// byField is where each field's value belongs.
func (c *Counters) byField() map[uint32]*Reading[uint64] {
	return map[uint32]*Reading[uint64]{
		nvml.FI_DEV_ECC_SBE_VOL_L1:                    &c.ECCL1,
		nvml.FI_DEV_ECC_SBE_VOL_L2:                    &c.ECCL2,
		nvml.FI_DEV_ECC_SBE_VOL_DEV:                   &c.ECCMemory,
		nvml.FI_DEV_ECC_SBE_AGG_TOTAL:                 &c.ECCCorrectedEver,
		nvml.FI_DEV_ECC_DBE_AGG_TOTAL:                 &c.ECCUncorrectedEver,
		nvml.FI_DEV_RETIRED_SBE:                       &c.RetiredSingle,
		nvml.FI_DEV_RETIRED_DBE:                       &c.RetiredDouble,
		nvml.FI_DEV_RETIRED_PENDING:                   &c.RetirePending,
		nvml.FI_DEV_REMAPPED_COR:                      &c.RemappedCorrectable,
		nvml.FI_DEV_REMAPPED_UNC:                      &c.RemappedUncorrectable,
		nvml.FI_DEV_REMAPPED_PENDING:                  &c.RemapPending,
		nvml.FI_DEV_REMAPPED_FAILURE:                  &c.RemapFailed,
		nvml.FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: &c.NVLinkFlitErrors,
		nvml.FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL: &c.NVLinkDataErrors,
		nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL:   &c.NVLinkReplays,
		nvml.FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: &c.NVLinkRecoveries,
		nvml.FI_DEV_PERF_POLICY_POWER:                 &c.Slowed.Power,
		nvml.FI_DEV_PERF_POLICY_THERMAL:               &c.Slowed.Thermal,
		nvml.FI_DEV_PERF_POLICY_SYNC_BOOST:            &c.Slowed.SyncBoost,
		nvml.FI_DEV_PERF_POLICY_BOARD_LIMIT:           &c.Slowed.Board,
		nvml.FI_DEV_PERF_POLICY_LOW_UTILIZATION:       &c.Slowed.LowUse,
		nvml.FI_DEV_PERF_POLICY_RELIABILITY:           &c.Slowed.Reliability,
	}
}

// licensed tells of a virtual GPU whether it has its licence; it counts as DCGM does.
func (d Device) licensed(r *reader) Reading[uint64] {
	features := read(r, "nvmlDeviceGetGridLicensableFeatures_v4", d.handle.GetGridLicensableFeatures)
	if !features.OK {
		return Reading[uint64]{}
	}
	f := features.Value
	if f.IsGridLicenseSupported == 0 {
		return Of[uint64](0)
	}
	for _, feature := range f.GridLicensableFeatures[:min(int(f.LicensableFeaturesCount), len(f.GridLicensableFeatures))] {
		if nvml.GridLicenseFeatureCode(feature.FeatureCode) == nvml.GRID_LICENSE_FEATURE_CODE_VGPU && feature.FeatureState > 0 {
			return Of[uint64](1)
		}
	}
	return Of[uint64](0)
}
