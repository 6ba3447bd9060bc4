package nvml

import (
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Activity is what the units of a GPU did since the sample before, as GPUs from Hopper on count it (NVML's GPM): percent of
// what is possible, and bytes per second. A MIG instance has its own.
type Activity struct {
	Graphics, SM, Occupancy, Tensor, DRAM Reading[float64]
	FP64, FP32, FP16                      Reading[float64]
	PCIeSentRate, PCIeReceivedRate        Reading[float64]
	NVLinkSentRate, NVLinkReceivedRate    Reading[float64]
}

// LeastGap is how far apart two samples must be to say anything: the driver counts no more often.
const LeastGap = 100 * time.Millisecond

// activityMeter remembers the sample before. Its samples are memory of the library's, and never given back: there are two for each
// GPU in a process's life.
type activityMeter struct {
	unable        bool
	before, spare nvml.GpmSample
	at            time.Time // when before was taken; zero for never
	last          Activity
	compared      *comparison // apart: cgo looks through all of what a pointer leads into
}

// read is the activity since it was asked last.
func (a *activityMeter) read(d Device, r *reader, now time.Time) Activity {
	if a.unable || !a.at.IsZero() && now.Sub(a.at) < LeastGap {
		return a.last
	}
	if a.spare == nil && !a.begin(d, r) {
		return a.last
	}
	took := read(r, d.gpmSymbol(), func() (bool, nvml.Return) {
		if d.parent != nil {
			return true, d.parent.GpmMigSampleGet(d.gpuInstance, a.spare)
		}
		return true, d.handle.GpmSampleGet(a.spare)
	})
	a.last = Activity{}
	if !took.OK {
		a.at = time.Time{}
		return a.last
	}
	if !a.at.IsZero() {
		a.compare(d, r)
	}
	a.before, a.spare, a.at = a.spare, a.before, now
	return a.last
}

func (d Device) gpmSymbol() string {
	if d.parent != nil {
		return "nvmlGpmMigSampleGet"
	}
	return "nvmlGpmSampleGet"
}

// begin finds out whether the GPU can at all.
func (a *activityMeter) begin(d Device, r *reader) bool {
	a.unable = true
	for _, symbol := range []string{d.gpmSymbol(), "nvmlGpmSampleAlloc", "nvmlGpmMetricsGet"} {
		if !d.lib.has(symbol) {
			return false
		}
	}
	card := d.handle
	if d.parent != nil {
		card = d.parent
	}
	able := read(r, "nvmlGpmQueryDeviceSupport", card.GpmQueryDeviceSupport)
	if !able.OK || able.Value.IsSupportedDevice == 0 {
		return false
	}
	var samples [2]nvml.GpmSample
	for i := range samples {
		made := read(r, "nvmlGpmSampleAlloc", d.lib.api.GpmSampleAlloc)
		if !made.OK {
			return false
		}
		samples[i] = made.Value
	}
	a.before, a.spare, a.compared, a.unable = samples[0], samples[1], new(comparison), false
	return true
}

// compare finds out what happened between the sample before and the spare one, which is younger.
func (a *activityMeter) compare(d Device, r *reader) {
	const symbol = "nvmlGpmMetricsGet"
	const mib = 1 << 20
	to := &a.last
	want := []struct {
		metric nvml.GpmMetricId
		to     *Reading[float64]
		unit   float64
	}{
		{nvml.GPM_METRIC_GRAPHICS_UTIL, &to.Graphics, 1},
		{nvml.GPM_METRIC_SM_UTIL, &to.SM, 1},
		{nvml.GPM_METRIC_SM_OCCUPANCY, &to.Occupancy, 1},
		{nvml.GPM_METRIC_ANY_TENSOR_UTIL, &to.Tensor, 1},
		{nvml.GPM_METRIC_DRAM_BW_UTIL, &to.DRAM, 1},
		{nvml.GPM_METRIC_FP64_UTIL, &to.FP64, 1},
		{nvml.GPM_METRIC_FP32_UTIL, &to.FP32, 1},
		{nvml.GPM_METRIC_FP16_UTIL, &to.FP16, 1},
		{nvml.GPM_METRIC_PCIE_TX_PER_SEC, &to.PCIeSentRate, mib},
		{nvml.GPM_METRIC_PCIE_RX_PER_SEC, &to.PCIeReceivedRate, mib},
		{nvml.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, &to.NVLinkSentRate, mib},
		{nvml.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, &to.NVLinkReceivedRate, mib},
	}
	get := a.compared
	get.count = uint32(len(want))
	for i, w := range want {
		get.metrics[i].id = uint32(w.metric)
	}
	got := read(r, symbol, func() (bool, nvml.Return) { return true, d.compare(symbol, get, a.before, a.spare) })
	if !got.OK {
		return
	}
	for i, w := range want {
		v := get.metrics[i].value
		if nvml.Return(get.metrics[i].ret) == nvml.SUCCESS && v >= 0 && v < math.MaxInt64/mib {
			*w.to = Of(v * w.unit)
		}
	}
}
