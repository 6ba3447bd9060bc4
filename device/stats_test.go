package device

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/device/control"
	"pangaea/e2e/nvmlsim"
)

func TestStatistics(t *testing.T) {
	s := nvmlsim.Host("stats", nvmlsim.H100SXM(), 2)
	s.GPUs[0].Set("UtilizationRates", 97, 41)
	s.GPUs[0].Set("MemoryInfo", 81559*mib, 41559*mib, 40000*mib)
	r := newRig(t, s)
	r.round()
	all := r.monitor.sampleAll("")
	must.Len(t, 1, all)
	must.Eq(t, "NVIDIA H100 80GB HBM3", all[0].Name)
	must.MapLen(t, 2, all[0].InstanceStats)
	one := all[0].InstanceStats[s.GPUs[0].UUID]
	must.Eq(t, int64(39400), *one.Summary.IntNumeratorVal) // what the driver keeps for itself is apart
	must.Eq(t, int64(81559), *one.Summary.IntDenominatorVal)
	want := map[string]int64{
		"GPU utilization": 97, "Memory utilization": 41, "Power usage": 70, "Temperature": 34, "Memory temperature": 40,
		"SM clock": 495, "Energy": 123456789, "ECC uncorrected errors": 0, "PCIe replays": 0, "NVLink sent": 0, "Memory reserved": 600,
	}
	for name, v := range want {
		got, ok := one.Stats.Attributes[name]
		must.True(t, ok, must.Sprint(name))
		must.Eq(t, v, *got.IntNumeratorVal, must.Sprint(name))
	}
	must.MapNotContainsKey(t, one.Stats.Attributes, "Fan speed", must.Sprint("the product has none"))
}

// A GPU that tells nothing has a summary all the same: Nomad's CLI reads it unasked.
func TestStatisticsOfSilentGPU(t *testing.T) {
	r := newRig(t, nvmlsim.Host("silent", nvmlsim.GB10(), 1))
	r.round()
	must.NotNil(t, r.monitor.sampleAll("")[0].InstanceStats[r.state.GPUs[0].UUID].Summary)
}

func TestHangingStatisticsHoldUpNobody(t *testing.T) {
	s := nvmlsim.Host("slow", nvmlsim.H100SXM(), 8)
	r := newRig(t, s)
	r.round()
	s.GPUs[2].Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetPowerUsage", DelayMS: forEver}}
	r.write()
	for range 2 {
		all := r.monitor.sampleAll("")
		must.MapLen(t, 7, all[0].InstanceStats)
		must.MapNotContainsKey(t, all[0].InstanceStats, s.GPUs[2].UUID)
	}
	s.GPUs[2].Faults = nil
	r.write()
	r.round()
}

// Without a driver there is nothing to say, and the stream goes on.
func TestStatsStreamOutlastsTheDriver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := New(ctx, hclog.NewNullLogger())
	p.settings.libraryPath = t.TempDir() + "/none.so"
	p.settings.control = control.Dir(t.TempDir())
	out, err := p.Stats(ctx, 10*time.Millisecond)
	must.NoError(t, err)
	for range 3 {
		got := receive(t, out)
		must.NoError(t, got.Error)
		must.SliceEmpty(t, got.Groups)
	}
	cancel()
	for range out { // ends with its context
	}
}
