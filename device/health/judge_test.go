package health

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
)

func yes() nvml.Reading[bool] { return nvml.Of(true) }

func TestExamineTellsEachSickness(t *testing.T) {
	cases := []struct {
		name  string
		given nvml.Vitals
		want  string // "" is healthy
	}{
		{"nothing supported", nvml.Vitals{}, ""},
		{"cool", nvml.Vitals{Temperature: nvml.Of[uint32](89), SlowdownAt: nvml.Of[uint32](90)}, ""},
		{"hot", nvml.Vitals{Temperature: nvml.Of[uint32](90), SlowdownAt: nvml.Of[uint32](90)}, "too hot: at 90 °C it slows down"},
		{"no threshold", nvml.Vitals{Temperature: nvml.Of[uint32](90), SlowdownAt: nvml.Of[uint32](0)}, ""},
		{"thermal slowdown", nvml.Vitals{ClockReasons: nvml.Of(nvml.HWThermalSlowdown)}, "slowed down by heat"},
		{"power brake", nvml.Vitals{ClockReasons: nvml.Of(nvml.HWPowerBrake)}, "slowed down by its power supply"},
		{"idle and software cap", nvml.Vitals{ClockReasons: nvml.Of[uint64](0x1 | 0x4)}, ""},
		{"remap pending", nvml.Vitals{RemapPending: yes()}, "row remap pending: reset the GPU"},
		{"remap failed is worse", nvml.Vitals{RemapPending: yes(), RemapFailed: yes()}, "row remapping failed: replace the GPU"},
		{"page retirement", nvml.Vitals{RetirePending: yes()}, "page retirement pending: reset the GPU"},
		{"ecc", nvml.Vitals{Uncorrectable: nvml.Of[uint64](2)}, "2 uncorrectable ECC errors: reset the GPU"},
		{"driver's word", nvml.Vitals{RecoveryAction: nvml.Of[uint64](2)}, "the driver asks: reboot the host"},
		{"driver's new word", nvml.Vitals{RecoveryAction: nvml.Of[uint64](42)}, "the driver asks: recovery action 42"},
		{"failed call", nvml.Vitals{Failures: []nvml.Failure{{Call: "nvmlX", Code: nvml.GPULost}}}, "fallen off the bus (nvmlX: GPU is lost): power-cycle or reset it"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var j Judge
			must.Eq(t, Verdict{Healthy: c.want == "", Reason: c.want}, j.Examine(c.given, time.Unix(1000, 0)))
		})
	}
}

// What NVIDIA's catalogue says is to be done, of one number of each kind, and of those that decide most.
func TestXidClasses(t *testing.T) {
	cases := []struct {
		action string // the catalogue's
		xids   []uint64
		want   class
	}{
		{"RESTART_APP", []uint64{13, 31, 32, 39, 68, 69, 94, 105, 126, 139}, application},
		{"IGNORE", []uint64{43, 63, 92, 121, 137, 157, 160, 161}, application},
		{"WORKFLOW_XID_45: with another one, or a program's end", []uint64{45}, application},
		{"WORKFLOW_NVLINK5_ERR: IGNORE in all cases", []uint64{147, 148}, application},
		{"RESET_GPU", []uint64{46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}, reset},
		{"WORKFLOW_XID_48, WORKFLOW_NVLINK_ERR: RESET_GPU", []uint64{48, 74}, reset},
		{"WORKFLOW_NVLINK5_ERR: RESET_GPU or IGNORE, as the driver says", []uint64{144, 145, 146, 149, 150}, reset},
		{"RESTART_BM, RESTART_VM", []uint64{79, 151}, reset},
		{"CONTACT_SUPPORT", []uint64{1, 61, 142}, suspect},
		{"CHECK_MECHANICALS, UPDATE_SWFW", []uint64{54, 78}, suspect},
		{"not in it", []uint64{0, 250, 1 << 40}, suspect},
	}
	now := time.Unix(1000, 0)
	for _, c := range cases {
		for _, xid := range c.xids {
			got, what := classify(xid)
			must.Eq(t, c.want, got, must.Sprintf("Xid %d: %s", xid, c.action))
			must.Eq(t, got == application, what == "", must.Sprintf("Xid %d", xid))
			var j Judge
			j.Xid(xid, now)
			must.Eq(t, got == application, j.Examine(nvml.Vitals{}, now).Healthy, must.Sprintf("Xid %d", xid))
		}
	}
}

func TestXidEnds(t *testing.T) {
	told := nvml.Vitals{RecoveryAction: nvml.Of[uint64](0)}
	cases := []struct {
		name    string
		xid     uint64
		vitals  nvml.Vitals
		after   time.Duration
		renewed bool
		want    bool
	}{
		{"suspect at first", 142, nvml.Vitals{}, 119 * time.Second, false, false},
		{"suspect later", 142, nvml.Vitals{}, 2 * time.Minute, false, true},
		{"reset, old driver", 79, nvml.Vitals{}, 9 * time.Minute, false, false},
		{"reset, old driver, quarantine over", 79, nvml.Vitals{}, 10 * time.Minute, false, true},
		{"reset, driver says nothing is needed", 79, told, 10 * time.Second, false, true},
		{"reset, driver asked too early", 79, told, 9 * time.Second, false, false},
		{"reset, driver reloaded", 79, nvml.Vitals{}, time.Second, true, true},
		{"NVLink 5, driver says nothing is needed", 145, told, 10 * time.Second, false, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var j Judge
			began := time.Unix(1000, 0)
			j.Xid(c.xid, began)
			must.False(t, j.Examine(nvml.Vitals{}, began).Healthy)
			if c.renewed {
				j.Renewed()
			}
			must.Eq(t, c.want, j.Examine(c.vitals, began.Add(c.after)).Healthy)
		})
	}
}

// A GPU that is sick every second round must not be offered in between.
func TestHysteresis(t *testing.T) {
	sick := nvml.Vitals{RemapPending: yes()}
	well := nvml.Vitals{}
	rounds := []struct {
		vitals nvml.Vitals
		want   string
	}{
		{well, ""},
		{sick, "row remap pending: reset the GPU"},
		{well, "recovering from: row remap pending: reset the GPU"},
		{well, "recovering from: row remap pending: reset the GPU"},
		{sick, "row remap pending: reset the GPU"},
		{well, "recovering from: row remap pending: reset the GPU"},
		{well, "recovering from: row remap pending: reset the GPU"},
		{well, ""},
		{well, ""},
	}
	j := Judge{Limits: Limits{RecoverAfter: 3}}
	for i, r := range rounds {
		must.Eq(t, Verdict{Healthy: r.want == "", Reason: r.want}, j.Examine(r.vitals, time.Unix(int64(i), 0)), must.Sprintf("round %d", i))
	}
}

func TestStrainCountsOnlyWhenItLasts(t *testing.T) {
	hot := nvml.Vitals{ClockReasons: nvml.Of(nvml.HWThermalSlowdown)}
	rounds := []struct {
		at      int64
		vitals  nvml.Vitals
		healthy bool
	}{
		{0, hot, true}, {59, hot, true}, {60, nvml.Vitals{}, true}, // a short spell
		{61, hot, true}, {120, hot, true}, {121, hot, false}, // a long one
		{122, nvml.Vitals{}, true},
	}
	j := Judge{Limits: Limits{StrainAfter: time.Minute}}
	for _, r := range rounds {
		must.Eq(t, r.healthy, j.Examine(r.vitals, time.Unix(r.at+1000, 0)).Healthy, must.Sprintf("at %d s", r.at))
	}
}
