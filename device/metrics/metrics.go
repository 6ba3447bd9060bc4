package metrics

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pangaea/device/nvml"
)

// GPU is one GPU or MIG instance at one moment.
type GPU struct {
	UUID, Model, BusID string
	Index              int    // in the driver's list, -1 when it is not there
	Profile            string // of a MIG instance
	Driver             string // its version
	Healthy            bool
	Reason             string
	AllocID, Task      string // "" when no task has it
	Namespace, JobID   string // of the task, as far as Pangaea's driver runs it
	LastXid            uint64
	Sample             nvml.Sample
}

// metric is one line of the exposition for each GPU that has the reading.
type metric struct {
	name, kind, help string
	value            func(GPU) nvml.Reading[float64]
}

const mib = 1 << 20

type number interface {
	~int | ~int64 | ~uint32 | ~uint64 | ~float64
}

// plain makes a metric of a reading as it is, divided by a unit.
func plain[T number](field func(nvml.Sample) nvml.Reading[T], unit float64) func(GPU) nvml.Reading[float64] {
	return func(g GPU) nvml.Reading[float64] {
		r := field(g.Sample)
		return nvml.Reading[float64]{Value: float64(r.Value) / unit, OK: r.OK}
	}
}

func metrics() []metric {
	return slices.Concat(states(), errorCounts(), links(), activity())
}

// gauge and counter are a metric in the unit of NVML's reading divided by another.
func gauge[T number](name, help string, unit float64, field func(nvml.Sample) nvml.Reading[T]) metric {
	return metric{name, "gauge", help, plain(field, unit)}
}

func counter[T number](name, help string, field func(nvml.Sample) nvml.Reading[T]) metric {
	return metric{name, "counter", help, plain(field, 1)}
}

type (
	s     = nvml.Sample
	small = nvml.Reading[uint32]
	big   = nvml.Reading[uint64]
	real  = nvml.Reading[float64]
)

func states() []metric {
	return []metric{
		{"pangaea_gpu_healthy", "gauge", "1 when the GPU is offered to Nomad.", healthy},
		gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", 1, func(x s) small { return x.CoreClock }),
		gauge("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", 1, func(x s) small { return x.MemoryClock }),
		gauge("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", 1, func(x s) small { return x.Temperature }),
		gauge("DCGM_FI_DEV_MEMORY_TEMP", "Memory temperature (in C).", 1, func(x s) big { return x.MemoryTemperature }),
		gauge("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", 1000, func(x s) small { return x.Power }),
		gauge("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "Power limit in force (in W).", 1000, func(x s) small { return x.PowerLimit }),
		counter("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since the driver was loaded (in mJ).", func(x s) big { return x.Energy }),
		gauge("DCGM_FI_DEV_FAN_SPEED", "Fan speed (in %).", 1, func(x s) small { return x.FanPercent }),
		gauge("DCGM_FI_DEV_PSTATE", "Performance state, 0 is the highest.", 1, func(x s) nvml.Reading[int] { return x.PState }),
		gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", 1, func(x s) small { return x.GPUPercent }),
		gauge("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", 1, func(x s) small { return x.MemoryPercent }),
		gauge("DCGM_FI_DEV_ENC_UTIL", "Encoder utilization (in %).", 1, func(x s) small { return x.EncoderPercent }),
		gauge("DCGM_FI_DEV_DEC_UTIL", "Decoder utilization (in %).", 1, func(x s) small { return x.DecoderPercent }),
		gauge("DCGM_FI_DEV_FB_TOTAL", "Memory in total (in MiB).", mib, func(x s) big { return x.MemoryTotal }),
		gauge("DCGM_FI_DEV_FB_FREE", "Memory free (in MiB).", mib, free),
		gauge("DCGM_FI_DEV_FB_USED", "Memory used (in MiB).", mib, func(x s) big { return x.MemoryUsed }),
		gauge("DCGM_FI_DEV_FB_RESERVED", "Memory that the driver keeps (in MiB).", mib, func(x s) big { return x.MemoryReserved }),
		gauge("DCGM_FI_DEV_BAR1_TOTAL", "BAR1 in total (in MiB).", mib, func(x s) big { return x.BAR1Total }),
		gauge("DCGM_FI_DEV_BAR1_USED", "BAR1 used (in MiB).", mib, func(x s) big { return x.BAR1Used }),
		gauge("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "NVML's bits for why clocks are low.", 1, func(x s) big { return x.ClockReasons }),
		gauge("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "1 when a virtual GPU has its license.", 1, func(x s) big { return x.Licensed }),
	}
}

func healthy(g GPU) nvml.Reading[float64] {
	if g.Healthy {
		return nvml.Of(1.0)
	}
	return nvml.Of(0.0)
}

func errorCounts() []metric {
	return []metric{
		{"DCGM_FI_DEV_XID_ERRORS", "gauge", "The last Xid, 0 for none.", func(g GPU) real { return nvml.Of(float64(g.LastXid)) }},
		counter("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected ECC errors since the driver was loaded.", func(x s) big { return x.ECCCorrected }),
		counter("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected ECC errors since the driver was loaded.", func(x s) big { return x.ECCUncorrected }),
		counter("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "Corrected ECC errors of the board's life.", func(x s) big { return x.ECCCorrectedEver }),
		counter("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "Uncorrected ECC errors of the board's life.", func(x s) big { return x.ECCUncorrectedEver }),
		counter("DCGM_FI_DEV_RETIRED_SBE", "Pages retired after single-bit errors.", func(x s) big { return x.RetiredSingle }),
		counter("DCGM_FI_DEV_RETIRED_DBE", "Pages retired after double-bit errors.", func(x s) big { return x.RetiredDouble }),
		gauge("DCGM_FI_DEV_RETIRED_PENDING", "Whether pages wait to be retired.", 1, func(x s) big { return x.RetirePending }),
		counter("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Rows remapped after corrected errors.", func(x s) big { return x.RemappedCorrectable }),
		counter("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Rows remapped after uncorrected errors.", func(x s) big { return x.RemappedUncorrectable }),
		gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", "Whether rows wait to be remapped.", 1, func(x s) big { return x.RemapPending }),
		gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed.", 1, func(x s) big { return x.RemapFailed }),
		counter("DCGM_FI_DEV_POWER_VIOLATION", "Time slowed by the power limit (in ns).", func(x s) big { return x.Slowed.Power }),
		counter("DCGM_FI_DEV_THERMAL_VIOLATION", "Time slowed by heat (in ns).", func(x s) big { return x.Slowed.Thermal }),
		counter("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "Time slowed by sync boost (in ns).", func(x s) big { return x.Slowed.SyncBoost }),
		counter("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", "Time slowed by the board's limit (in ns).", func(x s) big { return x.Slowed.Board }),
		counter("DCGM_FI_DEV_LOW_UTIL_VIOLATION", "Time slowed by lack of work (in ns).", func(x s) big { return x.Slowed.LowUse }),
		counter("DCGM_FI_DEV_RELIABILITY_VIOLATION", "Time slowed for reliability (in ns).", func(x s) big { return x.Slowed.Reliability }),
	}
}

func links() []metric {
	return []metric{
		counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe retries.", func(x s) big { return x.PCIeReplays }),
		// Called a counter elsewhere, it has always been a rate: DCGM divides by the time that passed, and KiB by 1000.
		gauge("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "NVLink bandwidth of all links, both ways (in MB/s).", 1000, func(x s) real { return x.NVLinkRate }),
		counter("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "NVLink flow-control CRC errors.", func(x s) big { return x.NVLinkFlitErrors }),
		counter("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "NVLink data CRC errors.", func(x s) big { return x.NVLinkDataErrors }),
		counter("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "NVLink retries.", func(x s) big { return x.NVLinkReplays }),
		counter("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "NVLink recovery errors.", func(x s) big { return x.NVLinkRecoveries }),
		counter("pangaea_gpu_nvlink_sent_kib", "Data sent over NVLink in KiB.", func(x s) big { return x.NVLinkSent }),
		counter("pangaea_gpu_nvlink_received_kib", "Data received over NVLink in KiB.", func(x s) big { return x.NVLinkReceived }),
	}
}

// activity is there from Hopper on.
func activity() []metric {
	return []metric{
		gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Ratio of time the graphics engine is active.", 100, func(x s) real { return x.Graphics }),
		gauge("DCGM_FI_PROF_SM_ACTIVE", "Ratio of cycles an SM has at least 1 warp assigned.", 100, func(x s) real { return x.SM }),
		gauge("DCGM_FI_PROF_SM_OCCUPANCY", "Ratio of warps resident on an SM.", 100, func(x s) real { return x.Occupancy }),
		gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Ratio of cycles the tensor pipes are active.", 100, func(x s) real { return x.Tensor }),
		gauge("DCGM_FI_PROF_DRAM_ACTIVE", "Ratio of cycles the memory interface is active.", 100, func(x s) real { return x.DRAM }),
		gauge("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "Ratio of cycles the fp64 pipes are active.", 100, func(x s) real { return x.FP64 }),
		gauge("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "Ratio of cycles the fp32 pipes are active.", 100, func(x s) real { return x.FP32 }),
		gauge("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "Ratio of cycles the fp16 pipes are active.", 100, func(x s) real { return x.FP16 }),
		gauge("DCGM_FI_PROF_PCIE_TX_BYTES", "Data sent over PCIe (in bytes per second).", 1, func(x s) real { return x.PCIeSentRate }),
		gauge("DCGM_FI_PROF_PCIE_RX_BYTES", "Data received over PCIe (in bytes per second).", 1, func(x s) real { return x.PCIeReceivedRate }),
		gauge("DCGM_FI_PROF_NVLINK_TX_BYTES", "Data sent over NVLink (in bytes per second).", 1, func(x s) real { return x.NVLinkSentRate }),
		gauge("DCGM_FI_PROF_NVLINK_RX_BYTES", "Data received over NVLink (in bytes per second).", 1, func(x s) real { return x.NVLinkReceivedRate }),
	}
}

func free(s nvml.Sample) nvml.Reading[uint64] {
	taken := s.MemoryUsed.Value + s.MemoryReserved.Value
	if !s.MemoryTotal.OK || taken > s.MemoryTotal.Value {
		return nvml.Reading[uint64]{}
	}
	return nvml.Of(s.MemoryTotal.Value - taken)
}

// Text is the exposition of all GPUs.
func Text(gpus []GPU) []byte {
	var b bytes.Buffer
	for _, m := range metrics() {
		headed := false
		for _, g := range gpus {
			r := m.value(g)
			if !r.OK {
				continue
			}
			if !headed {
				fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
				headed = true
			}
			fmt.Fprintf(&b, "%s{%s} %g\n", m.name, labels(g), r.Value)
		}
	}
	return b.Bytes()
}

func labels(g GPU) string {
	index, device := "", ""
	if g.Index >= 0 {
		index = strconv.Itoa(g.Index)
		device = "nvidia" + index
	}
	pairs := [][2]string{
		{"gpu", index},
		{"UUID", g.UUID},
		{"modelName", g.Model},
		{"pci_bus_id", g.BusID},
		{"device", device},
		{"GPU_I_PROFILE", g.Profile},
		{"DCGM_FI_DRIVER_VERSION", g.Driver},
		{"alloc_id", g.AllocID},
		{"task", g.Task},
		{"namespace", g.Namespace},
		{"job_id", g.JobID},
		{"reason", g.Reason},
	}
	var words []string
	for _, p := range pairs {
		if p[1] != "" {
			words = append(words, p[0]+`="`+escape(p[1])+`"`)
		}
	}
	return strings.Join(words, ",")
}

// escape keeps a value inside its quotes, whatever a driver or a task's name holds.
func escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(value, "?"))
}
