package device

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// calls are those that a round makes for a GPU, whether its product supports them or not.
func calls() []string {
	return strings.Fields(`nvmlDeviceGetHandleByIndex_v2 nvmlDeviceGetUUID nvmlDeviceGetName
		nvmlDeviceGetPciInfo_v3 nvmlDeviceGetTemperature nvmlDeviceGetTemperatureThreshold nvmlDeviceGetCurrentClocksThrottleReasons
		nvmlDeviceGetFieldValues
		nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetMemoryInfo_v2
		nvmlDeviceGetBAR1MemoryInfo nvmlDeviceGetMemoryBusWidth nvmlDeviceGetNumaNodeId nvmlDeviceGetCudaComputeCapability
		nvmlDeviceGetArchitecture nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetMaxClockInfo nvmlDeviceGetMaxPcieLinkGeneration
		nvmlDeviceGetMaxPcieLinkWidth nvmlDeviceGetNumGpuCores nvmlDeviceGetEccMode nvmlDeviceGetMigMode nvmlDeviceGetPersistenceMode
		nvmlDeviceGetDisplayMode nvmlDeviceGetNvLinkState nvmlDeviceGetGpuFabricInfo nvmlDeviceRegisterEvents *`)
}

// codes are all of NVML's errors. harmless ones say that a question has no answer, and nothing about the GPU.
func codes() (all []int, harmless map[int]bool) {
	for code := 1; code <= 30; code++ {
		all = append(all, code)
	}
	harmless = map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 13: true, 21: true, 22: true, 24: true, 25: true, 26: true, 30: true}
	return append(all, 999), harmless
}

// pair is one way in which one call fails.
type pair struct {
	fault nvmlsim.Fault
	sick  bool
}

func pairs() []pair {
	all, harmless := codes()
	var list []pair
	for _, call := range calls() {
		for _, code := range all {
			// A GPU that cannot be told from others is sick whatever the reason, and so is one whose users cannot be told;
			// one that does not send events is not.
			sick := call == "nvmlDeviceGetHandleByIndex_v2" || call == "nvmlDeviceGetUUID" || call == "*" ||
				strings.Contains(call, "Processes") && code == 7 || !harmless[code] && call != "nvmlDeviceRegisterEvents"
			list = append(list, pair{fault: nvmlsim.Fault{Call: call, Code: code}, sick: sick})
		}
	}
	return list
}

// Whatever call fails in whatever way on whichever of eight GPUs: it is named in the round in which it is sick, nothing
// panics, and no other GPU is touched, be it well or sick in a way of its own. Each GPU meets each fault.
func TestEveryErrorOnEveryCall(t *testing.T) {
	r := newRig(t, nvmlsim.Host("matrix", nvmlsim.H100SXM(), 8))
	must.Eq(t, allWell(r.state), r.round().health())
	list := pairs()
	play := func(faults map[int]pair) {
		for i, g := range r.state.GPUs {
			g.Faults = nil
			p, ok := faults[i]
			if ok {
				g.Faults = []nvmlsim.Fault{p.fault}
			}
		}
		r.write()
		got := r.round().health()
		must.MapLen(t, 8, got)
		for i, g := range r.state.GPUs {
			must.Eq(t, faults[i].sick, got[g.UUID] != "", must.Sprintf("GPU %d with %+v says %q; all: %+v", i, faults[i].fault, got[g.UUID], faults))
		}
	}
	for round := range list {
		well := round % 8
		faults := make(map[int]pair)
		for i := range 8 {
			if i != well {
				faults[i] = list[(round+len(list)/8*i)%len(list)]
			}
		}
		play(faults)
		play(map[int]pair{well: list[(round+len(list)/8*well)%len(list)]}) // one of eight, and the one that was well above
	}
	play(nil)
}

// What the library itself is asked can fail too. Where that does not mean that there is no driver, all GPUs stay.
func TestEveryErrorOfTheLibrary(t *testing.T) {
	r := newRig(t, nvmlsim.Host("library", nvmlsim.L4(), 8))
	must.Eq(t, allWell(r.state), r.round().health())
	all, harmless := codes()
	noDriver := map[int]bool{1: true, 9: true, 12: true, 18: true}
	for _, call := range strings.Fields("nvmlSystemGetDriverVersion nvmlSystemGetCudaDriverVersion_v2 nvmlDeviceGetCount_v2 nvmlEventSetCreate nvmlEventSetWait_v2") {
		for _, code := range all {
			r.state.Faults = []nvmlsim.Fault{{Call: call, Code: code}}
			r.write()
			got := r.round().health()
			optional := call != "nvmlSystemGetDriverVersion" && call != "nvmlDeviceGetCount_v2" || call == "nvmlSystemGetDriverVersion" && harmless[code]
			must.MapLen(t, 8, got)
			for _, g := range r.state.GPUs {
				must.Eq(t, !optional && noDriver[code], got[g.UUID] != "", must.Sprintf("%s answers %d: %q", call, code, got[g.UUID]))
			}
			r.state.Faults = nil
			r.write()
			must.Eq(t, allWell(r.state), r.round().health(), must.Sprintf("after %s answered %d", call, code))
		}
	}
	for _, code := range all {
		r.state.Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetCount_v2", Code: 9}, {Call: "nvmlInit_v2", Code: code}}
		r.write()
		r.round()
		got := r.round().health()
		must.MapLen(t, 8, got)
		for _, reason := range got {
			must.StrContains(t, reason, map[bool]string{true: "libnvidia-ml.so.1 not found", false: "nvmlInit_v2"}[code == 12])
		}
	}
	r.state.Faults = nil
	r.write()
	must.Eq(t, allWell(r.state), r.round().health())
}

// MIG instances stay listed under their names whatever fails, sick if the failure may concern them.
func TestEveryErrorOnMIGCalls(t *testing.T) {
	s := nvmlsim.Host("mig matrix", nvmlsim.A100PCIe40GB(), 2)
	s.GPUs[0].Set("MigMode", 1, 1)
	s.GPUs[0].MIG = []nvmlsim.MIG{{UUID: "MIG-a", Profile: "1g.5gb", MemoryMiB: 4864, GI: 1}, {UUID: "MIG-b", Profile: "2g.10gb", MemoryMiB: 9856, GI: 2}}
	r := newRig(t, s)
	well := map[string]string{"MIG-a": "", "MIG-b": "", s.GPUs[1].UUID: ""}
	must.Eq(t, well, r.round().health())
	all, harmless := codes()
	for _, call := range strings.Fields("nvmlDeviceGetMigMode nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetUUID nvmlDeviceGetName nvmlDeviceGetMemoryInfo_v2") {
		for _, code := range all {
			if harmless[code] && call != "nvmlDeviceGetUUID" && call != "nvmlDeviceGetName" {
				continue // then there is no MIG mode, or no such instance
			}
			s.GPUs[0].Faults = []nvmlsim.Fault{{Call: call, Code: code}}
			r.write()
			got := r.round().health()
			must.Eq(t, slices.Sorted(maps.Keys(well)), slices.Sorted(maps.Keys(got)), must.Sprintf("%s answers %d", call, code))
			sick := !harmless[code] || call == "nvmlDeviceGetUUID"
			must.Eq(t, sick, got["MIG-a"] != "", must.Sprintf("%s answers %d: %v", call, code, got))
			must.Eq(t, "", got[s.GPUs[1].UUID])
			s.GPUs[0].Faults = nil
			r.write()
			must.Eq(t, well, r.round().health())
		}
	}
}

// Failures of what only statistics ask never make a GPU sick, nor hide another reading or GPU.
func TestEveryErrorOnStatistics(t *testing.T) {
	r := newRig(t, nvmlsim.Host("stats matrix", nvmlsim.H100SXM(), 8))
	r.round()
	all, _ := codes()
	for _, call := range strings.Fields(`nvmlDeviceGetPowerUsage nvmlDeviceGetClockInfo nvmlDeviceGetFanSpeed
		nvmlDeviceGetPerformanceState nvmlDeviceGetUtilizationRates nvmlDeviceGetEncoderUtilization nvmlDeviceGetDecoderUtilization
		nvmlDeviceGetGridLicensableFeatures_v4 nvmlGpmQueryDeviceSupport nvmlGpmSampleGet *`) {
		for i, code := range all {
			g := r.state.GPUs[i%8]
			g.Faults = []nvmlsim.Fault{{Call: call, Code: code}}
			r.write()
			stats := r.monitor.sampleAll("")[0].InstanceStats
			must.MapLen(t, 8, stats)
			if call != "*" {
				must.MapContainsKey(t, stats[g.UUID].Stats.Attributes, "Temperature")
				must.Eq(t, allWell(r.state), r.round().health())
			}
			g.Faults = nil
		}
	}
}

// Numbers that are none, which NVML writes with all bits set, are no numbers to Nomad either, whatever they were read as.
func TestValuesThatAreNone(t *testing.T) {
	r := newRig(t, nvmlsim.Host("values", nvmlsim.H100SXM(), 1))
	g := r.state.GPUs[0]
	g.Set("FieldValue.82", 40)
	must.Eq(t, allWell(r.state), r.round().health())
	most := strconv.FormatUint(math.MaxUint64, 10)
	for key, was := range maps.Clone(g.Readings) {
		if key == "Name" || key == "GpuFabricInfo" {
			continue
		}
		// Counters of 64 bits may well pass 32 of them.
		wide := strings.HasPrefix(key, "FieldValue") || strings.HasPrefix(key, "TotalE") || strings.HasPrefix(key, "CurrentClocks")
		for _, value := range []string{"4294967295", most, "-1", "", "dnan", "d-1", "d1e300", "d-nan", "dinf"} {
			words := strings.Fields(was)
			for i := range words {
				words[i] = value
			}
			g.Readings[key] = strings.Join(words, " ")
			r.write()
			r.round()
			for name, a := range groups(r.monitor.published.Load(), "")[0].Attributes {
				must.True(t, a.Int == nil || *a.Int >= 0 && *a.Int < math.MaxUint32>>2, must.Sprintf("%s is %q: %s is %s", key, value, name, a.GoString()))
			}
			for name, v := range r.monitor.sampleAll("")[0].InstanceStats[g.UUID].Stats.Attributes {
				must.True(t, v.IntNumeratorVal == nil || *v.IntNumeratorVal >= 0 && (wide || *v.IntNumeratorVal < math.MaxUint32), must.Sprintf("%s is %q: %s", key, value, name))
			}
		}
		g.Readings[key] = was
	}
	r.write()
	r.round()
	must.Eq(t, allWell(r.state), r.round().health())
}

// A GPU without a UUID, with another's, or with one that is none, costs itself and at most its double.
func TestUUIDsThatAreNone(t *testing.T) {
	s := nvmlsim.Host("uuids", nvmlsim.L4(), 4)
	r := newRig(t, s)
	must.Eq(t, allWell(s), r.round().health())
	own := s.GPUs[2].UUID
	const gone = "the driver gives it the UUID"
	for _, uuid := range []string{"", "GPU 1", "GPU-\x1b[2J", strings.Repeat("G", 81), "GPU-é"} {
		s.GPUs[2].Set("UUID", uuid)
		r.write()
		got := r.round().health()
		must.MapLen(t, 4, got)
		must.StrContains(t, got[own], gone)
		delete(got, own)
		for _, reason := range got {
			must.Eq(t, "", reason)
		}
	}
	s.GPUs[2].Set("UUID", s.GPUs[1].UUID)
	r.write()
	got := r.round().health()
	must.StrContains(t, got[s.GPUs[1].UUID], "the driver gives two GPUs the UUID")
	must.StrContains(t, got[own], "no longer listed")
	must.Eq(t, "", got[s.GPUs[0].UUID])
	must.Eq(t, got, r.round().health(), must.Sprint("no flap"))
	s.GPUs[2].Unset("UUID")
	r.write()
	must.Eq(t, allWell(s), r.round().health())
}

// The list may get shorter between the question how long it is and the questions about what is in it, and longer again.
func TestCountThatChanges(t *testing.T) {
	s := nvmlsim.Host("count", nvmlsim.L4(), 4)
	r := newRig(t, s)
	must.Eq(t, allWell(s), r.round().health())
	all := s.GPUs
	last := all[3].UUID
	all[3].Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetHandleByIndex_v2", Code: 2}} // counted, and not there
	r.write()
	got := r.round().health()
	must.StrContains(t, got[last], "nvmlDeviceGetHandleByIndex_v2")
	delete(got, last)
	want := allWell(s)
	delete(want, last)
	must.Eq(t, want, got)
	all[3].Faults = nil
	for _, order := range [][]int{{0}, {}, {3, 2, 1, 0}, {1, 3}, {0, 1, 2, 3}} {
		r.state.GPUs = nil
		want = make(map[string]string)
		for _, g := range all {
			want[g.UUID] = "no longer listed by the driver: fallen off the bus or handed to a virtual machine"
		}
		for _, i := range order {
			r.state.GPUs = append(r.state.GPUs, all[i])
			want[all[i].UUID] = ""
		}
		r.write()
		must.Eq(t, want, r.round().health(), must.Sprintf("%v", order))
	}
}

// Each call hangs on a GPU of its own, seven at a time; the eighth GPU does not notice, nor do those that come back
// notice what is still stuck. A hang ends when its fault is taken out of the state.
func TestEveryCallHangs(t *testing.T) {
	r := newRig(t, nvmlsim.Host("hangs", nvmlsim.H100SXM(), 8), func(s *settings) { s.hangAfter = time.Hour })
	must.Eq(t, allWell(r.state), r.round().health())
	look := func() map[string]string {
		for _, g := range r.monitor.gpus {
			g.traitsAt = time.Time{} // limits are read anew each time
		}
		r.now = time.Now().Add(2 * time.Hour)
		r.monitor.round(r.ctx, r.now)
		return r.monitor.published.Load().health()
	}
	list := slices.DeleteFunc(calls(), func(call string) bool { return call == "*" || call == "nvmlDeviceRegisterEvents" })
	for batch := range slices.Chunk(list, 7) {
		for i, call := range batch {
			r.state.GPUs[i].Faults = []nvmlsim.Fault{{Call: call, DelayMS: forEver}}
		}
		r.write()
		for range 2 {
			got := look()
			must.MapLen(t, 8, got)
			for i, g := range r.state.GPUs {
				if i < len(batch) {
					must.StrHasPrefix(t, "NVML call "+batch[i]+" hangs since ", got[g.UUID])
					continue
				}
				must.Eq(t, "", got[g.UUID])
			}
		}
		for i := range batch {
			r.state.GPUs[i].Faults = nil
		}
		r.write()
		for deadline := time.Now().Add(soon); !maps.Equal(allWell(r.state), look()); {
			must.True(t, time.Now().Before(deadline), must.Sprintf("%v", r.monitor.published.Load().health()))
		}
	}
}
