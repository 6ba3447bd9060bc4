package metrics

import (
	"bytes"
	"fmt"
	"strings"

	"pangaea/device/nvml"
)

// GPU is one GPU or MIG instance at one moment.
type GPU struct {
	UUID, Model, BusID string
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
	~int | ~int64 | ~uint32 | ~uint64
}

// plain makes a metric of a reading as it is, divided by a unit.
func plain[T number](field func(nvml.Sample) nvml.Reading[T], unit float64) func(GPU) nvml.Reading[float64] {
	return func(g GPU) nvml.Reading[float64] {
		r := field(g.Sample)
		return nvml.Reading[float64]{Value: float64(r.Value) / unit, OK: r.OK}
	}
}

func metrics() []metric {
	type s = nvml.Sample
	return []metric{
		{"pangaea_gpu_healthy", "gauge", "1 when the GPU is offered to Nomad.", func(g GPU) nvml.Reading[float64] {
			if g.Healthy {
				return nvml.Of(1.0)
			}
			return nvml.Of(0.0)
		}},
		{"DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock in MHz.", plain(func(x s) nvml.Reading[uint32] { return x.CoreClock }, 1)},
		{"DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock in MHz.", plain(func(x s) nvml.Reading[uint32] { return x.MemoryClock }, 1)},
		{"DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature in C.", plain(func(x s) nvml.Reading[uint32] { return x.Temperature }, 1)},
		{"DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature in C.", plain(func(x s) nvml.Reading[uint64] { return x.MemoryTemperature }, 1)},
		{"DCGM_FI_DEV_POWER_USAGE", "gauge", "Power in W.", plain(func(x s) nvml.Reading[uint32] { return x.Power }, 1000)},
		{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy since the driver was loaded, in mJ.", plain(func(x s) nvml.Reading[uint64] { return x.Energy }, 1)},
		{"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe retries.", plain(func(x s) nvml.Reading[int] { return x.PCIeReplays }, 1)},
		{"DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization in %.", plain(func(x s) nvml.Reading[uint32] { return x.GPUPercent }, 1)},
		{"DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization in %.", plain(func(x s) nvml.Reading[uint32] { return x.MemoryPercent }, 1)},
		{"DCGM_FI_DEV_ENC_UTIL", "gauge", "Encoder utilization in %.", plain(func(x s) nvml.Reading[uint32] { return x.EncoderPercent }, 1)},
		{"DCGM_FI_DEV_DEC_UTIL", "gauge", "Decoder utilization in %.", plain(func(x s) nvml.Reading[uint32] { return x.DecoderPercent }, 1)},
		{"DCGM_FI_DEV_XID_ERRORS", "gauge", "The last Xid, 0 for none.", func(g GPU) nvml.Reading[float64] { return nvml.Of(float64(g.LastXid)) }},
		{"DCGM_FI_DEV_FB_FREE", "gauge", "Free memory in MiB.", plain(free, mib)},
		{"DCGM_FI_DEV_FB_USED", "gauge", "Used memory in MiB.", plain(func(x s) nvml.Reading[uint64] { return x.MemoryUsed }, mib)},
		{"DCGM_FI_DEV_FB_RESERVED", "gauge", "Memory that the driver keeps, in MiB.", plain(func(x s) nvml.Reading[uint64] { return x.MemoryReserved }, mib)},
		{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Uncorrected ECC errors.", plain(func(x s) nvml.Reading[uint64] { return x.ECCUncorrected }, 1)},
		{"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", "Corrected ECC errors.", plain(func(x s) nvml.Reading[uint64] { return x.ECCCorrected }, 1)},
		{"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped after corrected errors.", plain(func(x s) nvml.Reading[int] { return x.RemappedCorrectable }, 1)},
		{"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped after uncorrected errors.", plain(func(x s) nvml.Reading[int] { return x.RemappedUncorrectable }, 1)},
		{"pangaea_gpu_nvlink_sent_kib", "counter", "Data sent over NVLink in KiB.", plain(func(x s) nvml.Reading[uint64] { return x.NVLinkSent }, 1)},
		{"pangaea_gpu_nvlink_received_kib", "counter", "Data received over NVLink in KiB.", plain(func(x s) nvml.Reading[uint64] { return x.NVLinkReceived }, 1)},
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
	pairs := [][2]string{{"UUID", g.UUID}, {"modelName", g.Model}, {"pci_bus_id", g.BusID}, {"alloc_id", g.AllocID}, {"task", g.Task}, {"namespace", g.Namespace}, {"job_id", g.JobID}, {"reason", g.Reason}}
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
