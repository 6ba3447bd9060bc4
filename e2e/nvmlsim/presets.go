package nvmlsim

import (
	"crypto/sha256"
	"fmt"
)

// Model is a product and what its data sheet says. Zero means that the product does not tell.
type Model struct {
	Name                     string
	MemoryMiB, BAR1MiB       int
	Arch, Major, Minor       int
	PowerW, MinPowerW        int
	CoreMHz, MemMHz, VideMHz int
	PCIeGen                  int
	ECC, MIG                 bool
	Links                    int
	Cores, BusBits           int
}

// Models of the presets.
const (
	archTuring, archAmpere, archAda, archHopper, archBlackwell = 6, 7, 8, 9, 10
	mib                                                        = 1 << 20
)

// H100SXM is the 80 GB Hopper module with 18 NVLinks.
func H100SXM() Model {
	return Model{
		Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, BAR1MiB: 131072, Arch: archHopper, Major: 9, PowerW: 700, MinPowerW: 200,
		CoreMHz: 1980, MemMHz: 2619, VideMHz: 1545, PCIeGen: 5, ECC: true, MIG: true, Links: 18, Cores: 16896, BusBits: 5120,
	}
}

// A100SXM80GB is the 80 GB Ampere module with 12 NVLinks.
func A100SXM80GB() Model {
	return Model{
		Name: "NVIDIA A100-SXM4-80GB", MemoryMiB: 81920, BAR1MiB: 131072, Arch: archAmpere, Major: 8, PowerW: 400, MinPowerW: 100,
		CoreMHz: 1410, MemMHz: 1593, VideMHz: 1290, PCIeGen: 4, ECC: true, MIG: true, Links: 12, Cores: 6912, BusBits: 5120,
	}
}

// A100PCIe40GB is the 40 GB Ampere card.
func A100PCIe40GB() Model {
	return Model{
		Name: "NVIDIA A100-PCIE-40GB", MemoryMiB: 40960, BAR1MiB: 65536, Arch: archAmpere, Major: 8, PowerW: 250, MinPowerW: 150,
		CoreMHz: 1410, MemMHz: 1215, VideMHz: 1290, PCIeGen: 4, ECC: true, MIG: true, Cores: 6912, BusBits: 5120,
	}
}

// L40S is a data centre Ada card.
func L40S() Model {
	return Model{
		Name: "NVIDIA L40S", MemoryMiB: 46068, BAR1MiB: 65536, Arch: archAda, Major: 8, Minor: 9, PowerW: 350, MinPowerW: 100,
		CoreMHz: 2520, MemMHz: 9001, VideMHz: 1965, PCIeGen: 4, ECC: true, Cores: 18176, BusBits: 384,
	}
}

// L4 is the small Ada card.
func L4() Model {
	return Model{
		Name: "NVIDIA L4", MemoryMiB: 23034, BAR1MiB: 32768, Arch: archAda, Major: 8, Minor: 9, PowerW: 72, MinPowerW: 40,
		CoreMHz: 2040, MemMHz: 6251, VideMHz: 1770, PCIeGen: 4, ECC: true, Cores: 7424, BusBits: 192,
	}
}

// T4 is the Turing inference card, of those that still carry the Tesla name.
func T4() Model {
	return Model{
		Name: "Tesla T4", MemoryMiB: 15360, BAR1MiB: 256, Arch: archTuring, Major: 7, Minor: 5, PowerW: 70, MinPowerW: 60,
		CoreMHz: 1590, MemMHz: 5001, VideMHz: 1470, PCIeGen: 3, ECC: true, Cores: 2560, BusBits: 256,
	}
}

// RTX4090 is a gamer's card: no MIG, no ECC counters.
func RTX4090() Model {
	return Model{
		Name: "NVIDIA GeForce RTX 4090", MemoryMiB: 24564, BAR1MiB: 32768, Arch: archAda, Major: 8, Minor: 9, PowerW: 450, MinPowerW: 150,
		CoreMHz: 3105, MemMHz: 10501, VideMHz: 2415, PCIeGen: 4, Cores: 16384, BusBits: 384,
	}
}

// RTX3090 is the older gamer's card.
func RTX3090() Model {
	return Model{
		Name: "NVIDIA GeForce RTX 3090", MemoryMiB: 24576, BAR1MiB: 256, Arch: archAmpere, Major: 8, Minor: 6, PowerW: 350, MinPowerW: 100,
		CoreMHz: 2100, MemMHz: 9751, VideMHz: 1950, PCIeGen: 4, Cores: 10496, BusBits: 384,
	}
}

// GB10 shares the machine's memory, so that it answers neither for memory nor for BAR1.
func GB10() Model {
	return Model{Name: "NVIDIA GB10", Arch: archBlackwell, Major: 12, Minor: 1, CoreMHz: 3003, VideMHz: 3003, PCIeGen: 5, Cores: 6144}
}

// Host is a machine with n GPUs of one model. The name of the host makes the UUIDs differ from other hosts'.
func Host(host string, m Model, n int) State {
	var s State
	for i := range n {
		s.GPUs = append(s.GPUs, m.GPU(host, i))
	}
	return s
}

// GPU is one idle, healthy GPU of the model: the index-th of a host.
func (m Model) GPU(host string, index int) *GPU {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", host, m.Name, index))
	g := &GPU{
		UUID:     fmt.Sprintf("GPU-%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]),
		Minor:    index,
		BusID:    fmt.Sprintf("00000000:%02X:00.0", 0x1b+0x10*index%0xe0),
		Readings: map[string]string{"Name": m.Name},
	}
	m.identity(g)
	m.memory(g)
	m.power(g)
	m.activity(g)
	for range m.Links {
		g.Links = append(g.Links, Link{RemoteBusID: "00000000:C0:00.0", Switch: true})
	}
	if m.Links > 0 {
		g.Set("GpuFabricInfo", 3, 0, fmt.Sprintf("%x", sha256.Sum256([]byte(host)))[:32])
	}
	return g
}

func (m Model) identity(g *GPU) {
	g.Set("Serial", 1320000000000+g.Minor)
	g.Set("Brand", 1)
	g.Set("Architecture", m.Arch)
	g.Set("CudaComputeCapability", m.Major, m.Minor)
	g.Set("MaxPcieLinkGeneration", m.PCIeGen)
	g.Set("MaxPcieLinkWidth", 16)
	g.Set("CurrPcieLinkGeneration", m.PCIeGen)
	g.Set("CurrPcieLinkWidth", 16)
	g.Set("PersistenceMode", 1)
	g.Set("DisplayMode", 0)
	g.Set("DisplayActive", 0)
	g.Set("ComputeMode", 0)
	g.Set("NumGpuCores", m.Cores)
	g.Set("NumaNodeId", g.Minor/4)
	g.Set("SupportedEventTypes", 0x1f)
	if m.BusBits > 0 {
		g.Set("MemoryBusWidth", m.BusBits)
	}
	if m.MIG {
		g.Set("MigMode", 0, 0)
		g.Set("MaxMigDeviceCount", 7)
	}
}

func (m Model) memory(g *GPU) {
	if m.MemoryMiB > 0 {
		const reserved = 600 * mib
		total := m.MemoryMiB * mib
		g.Set("MemoryInfo", total, total-reserved, reserved)
		g.Set("MemoryReserved", reserved)
		g.Set("BAR1MemoryInfo", m.BAR1MiB*mib, (m.BAR1MiB-1)*mib, mib)
	}
	if !m.ECC {
		return
	}
	g.Set("EccMode", 1, 1)
	g.Set("RemappedRows", 0, 0, 0, 0)
	for kind := range 2 {
		for counter := range 2 {
			g.Set(fmt.Sprintf("TotalEccErrors.%d.%d", kind, counter), 0)
		}
	}
}

func (m Model) power(g *GPU) {
	if m.PowerW == 0 {
		return
	}
	g.Set("PowerManagementLimit", m.PowerW*1000)
	g.Set("PowerManagementDefaultLimit", m.PowerW*1000)
	g.Set("EnforcedPowerLimit", m.PowerW*1000)
	g.Set("PowerManagementLimitConstraints", m.MinPowerW*1000, m.PowerW*1000)
	g.Set("PowerUsage", m.PowerW*100)
	g.Set("TotalEnergyConsumption", 123456789)
}

func (m Model) activity(g *GPU) {
	for kind, mhz := range []int{m.CoreMHz, m.CoreMHz, m.MemMHz, m.VideMHz} {
		if mhz > 0 {
			g.Set(fmt.Sprintf("MaxClockInfo.%d", kind), mhz)
			g.Set(fmt.Sprintf("ClockInfo.%d", kind), mhz/4)
		}
	}
	g.Set("Temperature.0", 34)
	for kind, celsius := range []int{95, 92, 90} {
		g.Set(fmt.Sprintf("TemperatureThreshold.%d", kind), celsius)
	}
	g.Set("PerformanceState", 0)
	g.Set("UtilizationRates", 0, 0)
	g.Set("EncoderUtilization", 0, 167000)
	g.Set("DecoderUtilization", 0, 167000)
	g.Set("PcieThroughput.0", 128)
	g.Set("PcieThroughput.1", 256)
	g.Set("PcieReplayCounter", 0)
	g.Set("CurrentClocksEventReasons", 1)
	g.Set("CurrentClocksThrottleReasons", 1)
	m.counters(g)
}

// counters are what is read as field values, and what units do.
func (m Model) counters(g *GPU) {
	if m.Links > 0 {
		for _, total := range []int{38, 45, 52, 59, 138, 139} { // NVLink's errors and throughput
			g.Set(fmt.Sprintf("FieldValue.%d", total), 0)
		}
	}
	for policy := 74; policy <= 79; policy++ {
		g.Set(fmt.Sprintf("FieldValue.%d", policy), 0)
	}
	if m.Arch == archHopper || m.Arch == archBlackwell && m.MIG {
		g.Set("GpmSupport", 1)
		for _, metric := range []int{1, 2, 3, 5, 10, 11, 12, 13, 20, 21, 60, 61} {
			g.Set(fmt.Sprintf("Gpm.%d", metric), 0)
		}
	}
	if m.ECC {
		g.Set("FieldValue.82", 40)
		for _, corrected := range []int{7, 9, 11} { // of the caches and the memory
			g.Set(fmt.Sprintf("FieldValue.%d", corrected), 0)
		}
	}
}
