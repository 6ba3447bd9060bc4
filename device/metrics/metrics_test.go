package metrics

import (
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
)

func TestText(t *testing.T) {
	text := string(Text([]GPU{
		{
			UUID: "GPU-a", Model: "NVIDIA L4", BusID: "0000:1b:00.0", Driver: "570.1", Profile: "1g.10gb", Healthy: true, AllocID: "1a2b", Task: "train", Namespace: "team", JobID: "model",
			Sample: nvml.Sample{
				Power: nvml.Of[uint32](71500), MemoryTotal: nvml.Of[uint64](100 * mib), MemoryUsed: nvml.Of[uint64](30 * mib),
				MemoryReserved: nvml.Of[uint64](10 * mib),
			},
		},
		{UUID: "GPU-b", Index: -1, Reason: `it said "no"` + "\nand \\ left", LastXid: 79},
	}))
	const a = `{gpu="0",UUID="GPU-a",modelName="NVIDIA L4",pci_bus_id="0000:1b:00.0",device="nvidia0",GPU_I_PROFILE="1g.10gb",DCGM_FI_DRIVER_VERSION="570.1",alloc_id="1a2b",task="train",namespace="team",job_id="model"} `
	const b = `{UUID="GPU-b",reason="it said \"no\"\nand \\ left"} `
	for _, want := range []string{
		"# TYPE pangaea_gpu_healthy gauge\n", "pangaea_gpu_healthy" + a + "1\n", "pangaea_gpu_healthy" + b + "0\n",
		"DCGM_FI_DEV_POWER_USAGE" + a + "71.5\n", "DCGM_FI_DEV_FB_FREE" + a + "60\n", "DCGM_FI_DEV_XID_ERRORS" + b + "79\n",
	} {
		must.StrContains(t, text, want)
	}
	must.StrNotContains(t, text, "DCGM_FI_DEV_POWER_USAGE"+b, must.Sprint("no reading, no line"))
	must.StrNotContains(t, text, "DCGM_FI_DEV_GPU_UTIL", must.Sprint("no line, no heading"))
	for line := range strings.Lines(text) {
		must.True(t, strings.HasPrefix(line, "# ") || strings.Contains(line, "} "), must.Sprint(line))
	}
}

// Each metric is declared once and has a name that Prometheus accepts.
func TestMetricsAreWellFormed(t *testing.T) {
	name := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	seen := make(map[string]bool)
	for _, m := range metrics() {
		must.False(t, seen[m.name])
		seen[m.name] = true
		must.RegexMatch(t, name, m.name)
		must.True(t, m.kind == "gauge" || m.kind == "counter")
	}
}
