package device

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
	"pangaea/e2e/nvmlsim"
)

// row is one of dcgm-exporter's metrics: what NVML answers, and what becomes of it.
type row struct {
	dcgm string
	call string // of NVML
	key  string // the simulator's reading
	set  string
	stat string // in Nomad's statistics
	want string // there
	text string // in Prometheus's
}

// rows are all that NVML can tell of those that dcgm-exporter has by default or holds ready in comments.
func rows() []row {
	const fields, gpm = "nvmlDeviceGetFieldValues", "nvmlGpmMetricsGet"
	return []row{
		{"DCGM_FI_DEV_SM_CLOCK", "nvmlDeviceGetClockInfo", "ClockInfo.1", "1755", "SM clock", "1755 MHz", "1755"},
		{"DCGM_FI_DEV_MEM_CLOCK", "nvmlDeviceGetClockInfo", "ClockInfo.2", "2619", "Memory clock", "2619 MHz", "2619"},
		{"DCGM_FI_DEV_MEMORY_TEMP", fields, "FieldValue.82", "71", "Memory temperature", "71 C", "71"},
		{"DCGM_FI_DEV_GPU_TEMP", "nvmlDeviceGetTemperature", "Temperature.0", "63", "Temperature", "63 C", "63"},
		{"DCGM_FI_DEV_POWER_USAGE", "nvmlDeviceGetPowerUsage", "PowerUsage", "412500", "Power usage", "412 / 700 W", "412.5"},
		{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", fields, "TotalEnergyConsumption", "987654", "Energy", "987654 mJ", "987654"},
		{"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", fields, "PcieReplayCounter", "3", "PCIe replays", "3 #", "3"},
		{"DCGM_FI_DEV_GPU_UTIL", "nvmlDeviceGetUtilizationRates", "UtilizationRates", "97 41", "GPU utilization", "97 %", "97"},
		{"DCGM_FI_DEV_MEM_COPY_UTIL", "nvmlDeviceGetUtilizationRates", "UtilizationRates", "97 41", "Memory utilization", "41 %", "41"},
		{"DCGM_FI_DEV_ENC_UTIL", "nvmlDeviceGetEncoderUtilization", "EncoderUtilization", "12 167000", "Encoder utilization", "12 %", "12"},
		{"DCGM_FI_DEV_DEC_UTIL", "nvmlDeviceGetDecoderUtilization", "DecoderUtilization", "7 167000", "Decoder utilization", "7 %", "7"},
		{"DCGM_FI_DEV_POWER_VIOLATION", fields, "FieldValue.74", "1001", "Slowed by power limit", "1001 ns", "1001"},
		{"DCGM_FI_DEV_THERMAL_VIOLATION", fields, "FieldValue.75", "1002", "Slowed by heat", "1002 ns", "1002"},
		{"DCGM_FI_DEV_SYNC_BOOST_VIOLATION", fields, "FieldValue.76", "1003", "Slowed by sync boost", "1003 ns", "1003"},
		{"DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", fields, "FieldValue.77", "1004", "Slowed by board limit", "1004 ns", "1004"},
		{"DCGM_FI_DEV_LOW_UTIL_VIOLATION", fields, "FieldValue.78", "1005", "Slowed by lack of work", "1005 ns", "1005"},
		{"DCGM_FI_DEV_RELIABILITY_VIOLATION", fields, "FieldValue.79", "1006", "Slowed for reliability", "1006 ns", "1006"},
		{"DCGM_FI_DEV_FB_FREE", "nvmlDeviceGetMemoryInfo_v2", "MemoryInfo", mebi(81559, 40959, 40600), "", "", "40959"},
		{"DCGM_FI_DEV_FB_USED", "nvmlDeviceGetMemoryInfo_v2", "MemoryInfo", mebi(81559, 40959, 40600), "Memory state", "40000 / 81559 MiB", "40000"},
		{"DCGM_FI_DEV_FB_RESERVED", "nvmlDeviceGetMemoryInfo_v2", "MemoryReserved", mebi(600), "Memory reserved", "600 MiB", "600"},
		{"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", fields, "TotalEccErrors.0.0", "21", "ECC corrected errors", "21 #", "21"},
		{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", fields, "TotalEccErrors.1.0", "22", "ECC uncorrected errors", "22 #", "22"},
		{"DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", fields, "TotalEccErrors.0.1", "23", "ECC corrected errors ever", "23 #", "23"},
		{"DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", fields, "TotalEccErrors.1.1", "24", "ECC uncorrected errors ever", "24 #", "24"},
		{"DCGM_FI_DEV_RETIRED_SBE", fields, "FieldValue.29", "31", "Retired pages (single-bit)", "31 #", "31"},
		{"DCGM_FI_DEV_RETIRED_DBE", fields, "FieldValue.30", "32", "Retired pages (double-bit)", "32 #", "32"},
		{"DCGM_FI_DEV_RETIRED_PENDING", fields, "FieldValue.31", "1", "Page retirement pending", "1", "1"},
		{"DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", fields, "FieldValue.38", "41", "NVLink flit errors", "41 #", "41"},
		{"DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", fields, "FieldValue.45", "42", "NVLink data errors", "42 #", "42"},
		{"DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", fields, "FieldValue.52", "43", "NVLink replays", "43 #", "43"},
		{"DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", fields, "FieldValue.59", "44", "NVLink recoveries", "44 #", "44"},
		{"DCGM_FI_DEV_VGPU_LICENSE_STATUS", "nvmlDeviceGetGridLicensableFeatures", "GridLicensableFeatures", "1", "vGPU license", "1", "1"},
		{"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", fields, "RemappedRows", "5 6 0 1", "Remapped rows (corrected)", "5 #", "5"},
		{"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", fields, "RemappedRows", "5 6 0 1", "Remapped rows (uncorrected)", "6 #", "6"},
		{"DCGM_FI_DEV_ROW_REMAP_FAILURE", fields, "RemappedRows", "5 6 0 1", "Row remap failure", "1", "1"},
		{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", gpm, "Gpm.1", "91.5", "Graphics engine activity", "91.5 %", "0.915"},
		{"DCGM_FI_PROF_SM_ACTIVE", gpm, "Gpm.2", "87.5", "SM activity", "87.5 %", "0.875"},
		{"DCGM_FI_PROF_SM_OCCUPANCY", gpm, "Gpm.3", "62.5", "SM occupancy", "62.5 %", "0.625"},
		{"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", gpm, "Gpm.5", "50.5", "Tensor activity", "50.5 %", "0.505"},
		{"DCGM_FI_PROF_DRAM_ACTIVE", gpm, "Gpm.10", "33.5", "DRAM activity", "33.5 %", "0.335"},
		{"DCGM_FI_PROF_PIPE_FP64_ACTIVE", gpm, "Gpm.11", "1.5", "FP64 activity", "1.5 %", "0.015"},
		{"DCGM_FI_PROF_PIPE_FP32_ACTIVE", gpm, "Gpm.12", "2.5", "FP32 activity", "2.5 %", "0.025"},
		{"DCGM_FI_PROF_PIPE_FP16_ACTIVE", gpm, "Gpm.13", "3.5", "FP16 activity", "3.5 %", "0.035"},
		{"DCGM_FI_PROF_PCIE_TX_BYTES", gpm, "Gpm.20", "1.5", "PCIe sending", "1572864 B/s", "1.572864e+06"},
		{"DCGM_FI_PROF_PCIE_RX_BYTES", gpm, "Gpm.21", "2.5", "PCIe receiving", "2621440 B/s", "2.62144e+06"},
	}
}

func mebi(sizes ...int) string {
	var words []string
	for _, s := range sizes {
		words = append(words, fmt.Sprint(s*mib))
	}
	return strings.Join(words, " ")
}

// TestDCGMRows shows each value on its way from NVML to Nomad and to Prometheus.
func TestDCGMRows(t *testing.T) {
	s := nvmlsim.Host("dcgm", nvmlsim.H100SXM(), 1)
	g := s.GPUs[0]
	for _, row := range rows() {
		g.Set(row.key, row.set)
	}
	r := newRig(t, s)
	r.round()
	stats, text := r.twice(t, func() {})
	for _, row := range rows() {
		must.StrContains(t, text, "\n"+row.dcgm+"{", must.Sprint(row.call))
		must.Eq(t, row.text, metricOf(text, row.dcgm), must.Sprint(row.dcgm))
		if row.stat != "" {
			must.MapContainsKey(t, stats, row.stat)
			must.Eq(t, row.want, stats[row.stat], must.Sprint(row.stat))
		}
	}
}

// TestDCGMDefaults holds the rows against dcgm-exporter's own list, as it stood in May 2026.
func TestDCGMDefaults(t *testing.T) {
	have := make(map[string]bool)
	for _, row := range rows() {
		have[row.dcgm] = true
	}
	elsewhere := map[string]string{
		"DCGM_FI_DEV_XID_ERRORS":             "TestLastXid",
		"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "TestNVLinkBandwidth",
		"DCGM_FI_DRIVER_VERSION":             "a label, see TestMetricsTellTheTask",
	}
	list, err := os.ReadFile("testdata/default-counters.csv")
	must.NoError(t, err)
	found := 0
	for line := range strings.Lines(string(list)) {
		name, _, ok := strings.Cut(line, ",")
		name = strings.TrimSpace(name)
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		found++
		must.True(t, have[name] || elsewhere[name] != "", must.Sprintf("%s is in dcgm-exporter's default list and not in ours", name))
	}
	must.Greater(t, 25, found)
}

func TestLastXid(t *testing.T) {
	r := newRig(t, nvmlsim.Host("xid", nvmlsim.H100SXM(), 1))
	r.round()
	r.monitor.note(xidEvent{uuid: r.state.GPUs[0].UUID, xid: 31, at: r.now})
	r.round()
	stats, text := r.twice(t, func() {})
	must.Eq(t, "31", stats["Last Xid"])
	must.Eq(t, "31", metricOf(text, "DCGM_FI_DEV_XID_ERRORS"))
}

// The sum over all links counts, not the first link's share.
func TestNVLinkBandwidth(t *testing.T) {
	s := nvmlsim.Host("nvlink", nvmlsim.H100SXM(), 1)
	g := s.GPUs[0]
	for _, key := range []string{"FieldValue.138.0", "FieldValue.139.0"} {
		g.Set(key, 5)
	}
	r := newRig(t, s)
	r.round()
	stats, text := r.twice(t, func() {
		g.Set("FieldValue.138", 40_000_000)
		g.Set("FieldValue.139", 50_000_000)
		r.write()
	})
	must.Eq(t, "40000000 KiB", stats["NVLink sent"])
	must.Eq(t, "50000000 KiB", stats["NVLink received"])
	must.StrContains(t, stats["NVLink bandwidth"], "KiB/s")
	must.NotEq(t, "", metricOf(text, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"))
}

// A MIG instance has activity of its own, and none of its card's.
func TestActivityOfMIGInstances(t *testing.T) {
	s := nvmlsim.Host("mig activity", nvmlsim.H100SXM(), 1)
	s.GPUs[0].Set("MigMode", 1, 1)
	s.GPUs[0].Set("Gpm.2", 99)
	s.GPUs[0].MIG = []nvmlsim.MIG{{UUID: "MIG-a", Profile: "1g.10gb", MemoryMiB: 9984, GI: 7, SMPercent: 12.5}}
	r := newRig(t, s)
	r.round()
	stats, text := r.twice(t, func() {})
	must.Eq(t, "12.5 %", stats["SM activity"])
	must.Eq(t, "0.125", metricOf(text, "DCGM_FI_PROF_SM_ACTIVE"))
	must.StrContains(t, text, `GPU_I_PROFILE="1g.10gb"`)
}

// GPUs before Hopper do not count what their units do; that hides nothing else.
func TestNoActivityBeforeHopper(t *testing.T) {
	r := newRig(t, nvmlsim.Host("ampere", nvmlsim.A100SXM80GB(), 1))
	r.round()
	stats, text := r.twice(t, func() {})
	must.Eq(t, "34 C", stats["Temperature"])
	must.MapNotContainsKey(t, stats, "SM activity")
	must.StrNotContains(t, text, "DCGM_FI_PROF_")
}

// What changes rarely is asked rarely, and there in between.
func TestCountersAreKept(t *testing.T) {
	r := newRig(t, nvmlsim.Host("kept", nvmlsim.L4(), 1))
	r.monitor.slowEvery = time.Hour
	r.round()
	stats, _ := r.twice(t, func() {
		r.state.GPUs[0].Set("BAR1MemoryInfo", mebi(32768, 0, 32768))
		r.state.GPUs[0].Set("Temperature.0", 77)
		r.write()
	})
	must.Eq(t, "77 C", stats["Temperature"])
	must.Eq(t, "1 / 32768 MiB", stats["BAR1 buffer state"])
}

// twice takes two samples as far apart as rates need, with a change in between, and returns what the first unit has then.
func (r *rig) twice(t *testing.T, change func()) (stats map[string]string, text string) {
	t.Helper()
	r.monitor.sampleAll("")
	time.Sleep(nvml.LeastGap)
	change()
	stats = make(map[string]string)
	for _, group := range r.monitor.sampleAll("") {
		for _, instance := range group.InstanceStats {
			for name, v := range instance.Stats.Attributes {
				stats[name] = shown(v)
			}
		}
	}
	w := httptest.NewRecorder()
	r.monitor.metrics(w, nil)
	return stats, w.Body.String()
}

// metricOf is the first value of a metric.
func metricOf(text, name string) string {
	_, rest, _ := strings.Cut("\n"+text, "\n"+name+"{")
	line, _, _ := strings.Cut(rest, "\n")
	return line[strings.LastIndex(line, " ")+1:]
}

// shown is a value as nomad node status -stats shows it.
func shown(v *structs.StatValue) string {
	return (&api.StatValue{
		FloatNumeratorVal: v.FloatNumeratorVal, FloatDenominatorVal: v.FloatDenominatorVal, IntNumeratorVal: v.IntNumeratorVal,
		IntDenominatorVal: v.IntDenominatorVal, StringVal: v.StringVal, BoolVal: v.BoolVal, Unit: v.Unit,
	}).String()
}
