package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Finding is one line of "pangaea doctor": ok, warn or fail, what was seen, and what to do about it. It is an alias of a
// nameless type so that the driver's findings have the same type, though neither plugin knows the other.
type Finding = struct {
	Area    string `json:"area"`
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Seen    string `json:"seen"`
	Fix     string `json:"fix,omitempty"`
}

func finding(verdict, name, fix, seen string, args ...any) Finding {
	return Finding{Area: "device nvidia/gpu", Name: name, Verdict: verdict, Seen: fmt.Sprintf(seen, args...), Fix: fix}
}

// Inspect looks once at the GPUs as configured, and at what keeps them from being offered. It changes nothing.
func (p *Plugin) Inspect(ctx context.Context) []Finding {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	s := p.settings
	p.mu.Unlock()
	var all []Finding
	for _, w := range s.warnings {
		all = append(all, finding("warn", "options", "correct the plugin's block", "%s", w))
	}
	if s.closed != "" {
		all = append(all, finding("fail", "options", "correct the plugin's block", "%s", s.closed))
	}
	if !s.enabled {
		return append(all, finding("warn", "options", "take enabled = false out of the plugin's block", "the plugin is switched off"))
	}
	m := newMonitor(s, p.log, func(string) {})
	m.lookOnly = true
	m.patience = s.hangAfter // nobody waits for its other rounds, and a driver without persistence mode takes seconds to come up
	if m.shares != nil {
		m.shares.lookOnly = true
	}
	m.start(ctx)
	machine, ok, _, reason := m.session.machine(m.patience, s.hangAfter, time.Now())
	all = append(all, inspectKernel("/", machine.DriverVersion)...)
	switch {
	case reason != "":
		return append(all, unanswered("/", reason))
	case !ok:
		return append(all, finding("fail", "library", "see dmesg for NVRM and Xid; reset the GPU or reboot", "NVML does not answer within %s", m.patience))
	}
	all = append(all, finding("ok", "library", "", "driver %s, %s", machine.DriverVersion, cudaWord(machine.CUDAVersion)))
	m.round(ctx, time.Now())
	return append(all, m.inspect()...)
}

func cudaWord(version int) string {
	if version == 0 {
		return "no CUDA"
	}
	return fmt.Sprintf("CUDA %d.%d", version/1000, version%1000/10)
}

// displayClass is what PCI devices that compute or draw begin their class with: VGA is 0300, 3D 0302.
const displayClass = "0x03"

// onBus are NVIDIA's GPUs by the kernel's list of PCI devices, and the kernel driver that each is bound to.
func onBus(root string) map[string]string {
	read := func(name string) string {
		text, _ := os.ReadFile(name)
		return strings.TrimSpace(string(text))
	}
	found := make(map[string]string)
	devices, _ := filepath.Glob(filepath.Join(root, "sys/bus/pci/devices/*"))
	for _, dir := range devices {
		if read(filepath.Join(dir, "vendor")) == "0x10de" && strings.HasPrefix(read(filepath.Join(dir, "class")), displayClass) {
			driver, _ := os.Readlink(filepath.Join(dir, "driver"))
			found[filepath.Base(dir)] = filepath.Base(driver)
		}
	}
	return found
}

// inspectKernel compares what hardware there is, what drives it, and the library.
func inspectKernel(root, library string) []Finding {
	var all []Finding
	bus := onBus(root)
	for _, id := range sortedKeys(bus) {
		switch bus[id] {
		case "nvidia":
		case ".":
			all = append(all, finding("fail", "kernel driver", "modprobe nvidia, after installing NVIDIA's driver", "the GPU at %s has no driver", id))
		case "nouveau":
			all = append(all, finding("fail", "kernel driver", "echo blacklist nouveau >/etc/modprobe.d/nouveau.conf && update-initramfs -u, install NVIDIA's driver, reboot",
				"the GPU at %s is driven by nouveau, which cannot compute", id))
		default:
			all = append(all, finding("warn", "kernel driver", "unbind it there if it is meant for tasks", "the GPU at %s belongs to %s", id, bus[id]))
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "proc/driver/nvidia/version"))
	if err != nil {
		return all
	}
	version := regexp.MustCompile(`Kernel Module(?: for \S+)?\s+([0-9.]+)`).FindSubmatch(text)
	switch {
	case version == nil:
		all = append(all, finding("warn", "kernel driver", "", "loaded, of an unknown version"))
	case library != "" && library != string(version[1]):
		all = append(all, finding("fail", "kernel driver", "reload the nvidia modules or reboot", "version %s, but the library's is %s", version[1], library))
	default:
		all = append(all, finding("ok", "kernel driver", "", "version %s", version[1]))
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// unanswered is a host whose NVML says nothing: one without a GPU has no need of it.
func unanswered(root, reason string) Finding {
	if len(onBus(root)) > 0 {
		return finding("fail", "library", "install NVIDIA's driver and its libraries, both of one version", "%s", reason)
	}
	return finding("warn", "library", "none is needed on a host without GPUs; else see lspci -d 10de:", "no NVIDIA GPU on the PCI bus, so none is offered (%s)", reason)
}

// inspect is what a round found of each GPU.
func (m *monitor) inspect() []Finding {
	var all []Finding
	offered, persistent := 0, true
	for _, uuid := range sortedKeys(m.gpus) {
		g := m.gpus[uuid]
		persistent = persistent && (!g.traits.Persistence.OK || g.traits.Persistence.Value)
		if g.verdict.Healthy && !m.settings.ignored[uuid] && len(g.units(nil)) > 0 {
			offered++
		}
		all = append(all, g.finding(m.settings.ignored[uuid]))
	}
	for _, u := range m.strays {
		all = append(all, finding("fail", u.id, "dmesg | grep -i nvrm says more", "%s", u.reason))
	}
	if !persistent {
		all = append(all, finding("warn", "persistence", "systemctl enable --now nvidia-persistenced", "off: the driver forgets its settings whenever nobody uses a GPU, and each start takes seconds"))
	}
	total := len(m.gpus) + len(m.strays)
	if total == 0 {
		return append(all, finding("warn", "offer", "see lspci -d 10de:", "the driver lists no GPU"))
	}
	return append(all, finding("ok", "offer", "", "%d of %d GPUs", offered, total))
}

func (g *gpu) finding(ignored bool) Finding {
	where := g.name
	if g.busID != "" {
		where += " at " + g.busID
	}
	switch {
	case ignored:
		return finding("ok", g.uuid, "", "%s: not offered, by ignored_gpu_ids", where)
	case g.claimed != "":
		return finding("ok", g.uuid, "", "%s: not offered: %s", where, g.claimed)
	case !g.verdict.Healthy && g.unbounded == g.verdict.Reason:
		return finding("fail", g.uuid, "see the message", "%s: %s", where, g.verdict.Reason)
	case !g.verdict.Healthy:
		return finding("fail", g.uuid, "dmesg | grep -i nvrm says more", "%s: %s", where, g.verdict.Reason)
	case g.mig && len(g.instances) == 0:
		return finding("warn", g.uuid, "nvidia-smi mig -cgi ... -C makes some, nvidia-smi -mig 0 ends the mode", "%s: in MIG mode without instances, so that nothing is offered", where)
	case g.mig:
		return finding("ok", g.uuid, "", "%s: %d MIG instances", where, len(g.instances))
	}
	return finding("ok", g.uuid, "", "%s: healthy", where)
}
