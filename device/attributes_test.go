package device

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"

	"pangaea/device/nvml"
	"pangaea/e2e/nvmlsim"
)

// attributesOf is what Nomad is told of a machine's first group, as words.
func attributesOf(t *testing.T, r *rig) map[string]string {
	t.Helper()
	all := groups(r.round(), "")
	must.NoError(t, all[0].Validate())
	words := make(map[string]string)
	for key, a := range all[0].Attributes {
		words[key] = a.GoString()
	}
	return words
}

func TestAttributesOfProducts(t *testing.T) {
	cases := []struct {
		model nvmlsim.Model
		want  string
	}{
		{nvmlsim.H100SXM(), `architecture=hopper bar1=131072MiB compute_capability=9 cores=16896 cores_clock=1980MHz cuda_version=12.8
			display_state=Disabled driver_version=570.86.15 ecc=true healthy=1 memory=81559MiB memory_bus_width=5120 memory_clock=2619MHz
			memory_usable=80959MiB mig=false numa_node=0 nvlink_clique=%s.0 nvlink_peers=18 pci_bandwidth=63008MB/s pci_generation=5
			pci_width=16 persistence_mode=Enabled power=700W`},
		{nvmlsim.RTX4090(), `architecture=ada bar1=32768MiB compute_capability=8.9 cores=16384 cores_clock=3105MHz cuda_version=12.8
			display_state=Disabled driver_version=570.86.15 healthy=1 memory=24564MiB memory_bus_width=384 memory_clock=10501MHz
			memory_usable=23964MiB numa_node=0 pci_bandwidth=31504MB/s pci_generation=4 pci_width=16 persistence_mode=Enabled power=450W`},
		// Memory is the machine's. BAR1, power and ECC are not supported: absent, and the GPU is there all the same.
		{nvmlsim.GB10(), `architecture=blackwell compute_capability=12.1 cores=6144 cores_clock=3003MHz cuda_version=12.8
			display_state=Disabled driver_version=570.86.15 healthy=1 memory=122880MiB numa_node=0 pci_bandwidth=63008MB/s pci_generation=5 pci_width=16
			persistence_mode=Enabled unified_memory=true`},
	}
	for _, c := range cases {
		t.Run(c.model.Name, func(t *testing.T) {
			r := newRig(t, nvmlsim.Host("attributes", c.model, 1))
			r.monitor.host.Proc = t.TempDir()
			must.NoError(t, os.WriteFile(filepath.Join(r.monitor.host.Proc, "meminfo"), []byte("MemTotal:       125829120 kB\nMemFree: 1 kB\n"), 0o644))
			got := attributesOf(t, r)
			var words []string
			for _, key := range slices.Sorted(maps.Keys(got)) {
				words = append(words, key+"="+got[key])
			}
			clique := r.state.GPUs[0].Readings["GpuFabricInfo"]
			want := strings.ReplaceAll(c.want, "%s", clique[strings.LastIndex(clique, " ")+1:])
			must.Eq(t, strings.Join(strings.Fields(want), " "), strings.Join(words, " "))
		})
	}
}

// Constraints compare with units: ${device.attr.memory} >= 40 GiB.
func TestAttributesMeetConstraints(t *testing.T) {
	r := newRig(t, nvmlsim.Host("constraints", nvmlsim.A100PCIe40GB(), 1))
	all := groups(r.round(), "")[0].Attributes
	cases := []struct {
		key, operand string
		want         int // attribute beside operand
	}{
		{"memory", "40 GiB", 0},
		{"memory", "40 GB", 1},
		{"memory", "41GiB", -1},
		{"memory", "40960MiB", 0},
		{"power", "250 W", 0},
		{"power", "0.2 kW", 1},
		{"cores_clock", "1.5 GHz", -1},
		{"pci_bandwidth", "30 GB/s", 1},
		{"compute_capability", "8", 0},
		{"compute_capability", "8.6", -1},
		{"compute_capability", "10.0", -1},
		{"cuda_version", "12.4", 1},
		{"mig", "false", 0},
		{"architecture", "ampere", 0},
	}
	for _, c := range cases {
		got, ok := all[c.key].Compare(structs.ParseAttribute(c.operand))
		must.True(t, ok)
		must.Eq(t, c.want, got, must.Sprintf("%s = %s beside %s", c.key, all[c.key].GoString(), c.operand))
	}
}

// A power cap that the owner sets while the plugin runs arrives, and a group has the least of what its GPUs have.
func TestAttributesChange(t *testing.T) {
	r := newRig(t, nvmlsim.Host("change", nvmlsim.L40S(), 2))
	must.Eq(t, "350W", attributesOf(t, r)["power"])
	r.state.GPUs[1].Set("EnforcedPowerLimit", 200000)
	r.state.GPUs[0].Set("PersistenceMode", 0)
	r.write()
	got := attributesOf(t, r)
	must.Eq(t, "200W", got["power"])
	must.MapNotContainsKey(t, got, "persistence_mode", must.Sprint("they differ"))
}

// Memory is the machine's only where the driver says that the GPU has none: neither when it may not tell, nor when it fails.
func TestMemoryThatIsNotTold(t *testing.T) {
	for _, code := range []int{4, 13, 999} {
		s := nvmlsim.Host("not told", nvmlsim.L4(), 1)
		for _, call := range []string{"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"} {
			s.GPUs[0].Faults = append(s.GPUs[0].Faults, nvmlsim.Fault{Call: call, Code: code})
		}
		got := attributesOf(t, newRig(t, s))
		must.MapNotContainsKeys(t, got, []string{"memory", "unified_memory"}, must.Sprint(code))
	}
}

// A driver that says it keeps more than there is must not make a GPU that fits every job.
func TestNonsenseMemoryIsLeftOut(t *testing.T) {
	all := attributes(unit{traits: nvml.Traits{Memory: nvml.Of[uint64](16 << 30), MemoryReserved: nvml.Of[uint64](17 << 30)}}, nvml.Machine{})
	must.MapNotContainsKey(t, all, "memory_usable")
}

func TestNamesAreStable(t *testing.T) {
	cases := []struct{ nvml, want string }{
		{"NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"},
		{"A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"}, // before driver 470
		{"NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"},
		{"GeForce RTX 3090", "NVIDIA GeForce RTX 3090"},
		{"Tesla T4", "Tesla T4"},
		{"Quadro RTX 6000", "Quadro RTX 6000"},
		{" NVIDIA  L4 ", "NVIDIA L4"},
		{"", unknownModel},
	}
	for _, c := range cases {
		must.Eq(t, c.want, modelName(c.nvml))
		must.Eq(t, c.want, modelName(modelName(c.nvml)))
	}
}

// A GPU stays in its group when its driver stops telling its name, or it is lost.
func TestGroupOutlastsTheName(t *testing.T) {
	r := newRig(t, nvmlsim.Host("name", nvmlsim.L4(), 1))
	r.round()
	r.state.GPUs[0].Unset("Name")
	r.write()
	must.Eq(t, "NVIDIA L4", groups(r.round(), "")[0].Name)
	r.state.GPUs[0].Lose()
	r.write()
	must.Eq(t, "NVIDIA L4", groups(r.round(), "")[0].Name)
}

// A GPU that was lost before the plugin started is shown too, and can never be had.
func TestLostFromTheStart(t *testing.T) {
	s := nvmlsim.Host("start", nvmlsim.L4(), 2)
	s.GPUs[1].Lose()
	r := newRig(t, s)
	all := groups(r.round(), "")
	must.Len(t, 2, all)
	must.Eq(t, unknownModel, all[0].Name)
	must.False(t, all[0].Devices[0].Healthy)
	s.GPUs[1].Faults = nil
	r.write()
	all = groups(r.round(), "")
	must.Len(t, 1, all)
	must.Len(t, 2, all[0].Devices)
}

func TestGroupBy(t *testing.T) {
	s := nvmlsim.Host("topology", nvmlsim.H100SXM(), 8)
	for i, g := range s.GPUs {
		g.Set("GpuFabricInfo", 3, i/4, strings.Repeat("ab", 16))
	}
	r := newRig(t, s)
	r.monitor.sys = t.TempDir()
	for i, g := range s.GPUs { // sysfs knows better than NVML
		dir := filepath.Join(r.monitor.sys, "bus/pci/devices", "0000:"+strings.ToLower(g.BusID[9:]))
		must.NoError(t, os.MkdirAll(dir, 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(dir, "numa_node"), fmt.Appendf(nil, "%d\n", i%2), 0o644))
	}
	snap := r.round()
	for by, want := range map[string][]string{
		"":       {"NVIDIA H100 80GB HBM3"},
		"numa":   {"NVIDIA H100 80GB HBM3 numa0", "NVIDIA H100 80GB HBM3 numa1"},
		"nvlink": {"NVIDIA H100 80GB HBM3 nvlink " + strings.Repeat("ab", 16) + ".0", "NVIDIA H100 80GB HBM3 nvlink " + strings.Repeat("ab", 16) + ".1"},
	} {
		var names []string
		for _, g := range groups(snap, by) {
			names = append(names, g.Name)
			must.Len(t, 8/len(want), g.Devices)
		}
		must.Eq(t, want, names, must.Sprint(by))
	}
}

func TestBandwidth(t *testing.T) {
	of := func(generation, width int) nvml.Traits {
		return nvml.Traits{PCIeGeneration: nvml.Of(generation), PCIeWidth: nvml.Of(width)}
	}
	must.Eq(t, nvml.Of(15760), bandwidth(of(3, 16)))
	must.Eq(t, nvml.Reading[int]{}, bandwidth(of(0, 16)))
	must.Eq(t, nvml.Reading[int]{}, bandwidth(of(7, 16)))
	must.Eq(t, nvml.Reading[int]{}, bandwidth(nvml.Traits{}))
}
