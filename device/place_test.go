package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// names are the groups of a snapshot.
func names(s *snapshot, by string) []string {
	var all []string
	for _, g := range groups(s, by) {
		all = append(all, g.Name)
	}
	return all
}

// Links go down, the kernel does not answer, the plugin starts while they are: the groups keep their names.
func TestPlacesAreStable(t *testing.T) {
	s := nvmlsim.Host("places", nvmlsim.H100SXM(), 2)
	s.GPUs[0].Unset("NumaNodeId") // NVML knows it for few
	sys := t.TempDir()
	node := filepath.Join(sys, "bus/pci/devices", "0000:1b:00.0", "numa_node")
	must.NoError(t, os.MkdirAll(filepath.Dir(node), 0o755))
	must.NoError(t, os.WriteFile(node, []byte("1\n"), 0o644))
	r := newRig(t, s)
	r.monitor.sys = sys
	snap := r.round()
	byLink, byNode := names(snap, "nvlink"), names(snap, "numa")
	must.Len(t, 1, byLink)
	must.StrContains(t, byLink[0], " nvlink ")
	must.Eq(t, []string{"NVIDIA H100 80GB HBM3 numa0", "NVIDIA H100 80GB HBM3 numa1"}, byNode)

	s.GPUs[0].Links = nil
	s.GPUs[1].Set("GpuFabricInfo", 2, 0, strings.Repeat("00", 16)) // the fabric is being set up anew
	must.NoError(t, os.Remove(node))
	r.write()
	snap = r.round()
	must.Eq(t, byLink, names(snap, "nvlink"))
	must.Eq(t, byNode, names(snap, "numa"))
	s.GPUs[0].Lose()
	r.write()
	must.Eq(t, byLink, names(r.round(), "nvlink"))

	s.GPUs[0].Faults = nil
	next := newRig(t, s, func(set *settings) { set.control = r.monitor.settings.control })
	next.monitor.sys = t.TempDir()
	must.NoError(t, next.monitor.settings.control.Recall("places", &next.monitor.places))
	must.Eq(t, byLink, names(next.round(), "nvlink"), must.Sprint("in its next life"))
	must.Eq(t, byNode, names(next.monitor.published.Load(), "numa"))
}

// Without a fabric to name them, GPUs are grouped by what their links join: bridges make pairs, a switch joins all.
func TestCliquesWithoutFabric(t *testing.T) {
	s := nvmlsim.Host("bridges", nvmlsim.RTX3090(), 4)
	for i, g := range s.GPUs {
		g.Links = []nvmlsim.Link{{RemoteBusID: s.GPUs[i^1].BusID}, {RemoteBusID: s.GPUs[i^1].BusID}}
	}
	r := newRig(t, s)
	must.Eq(t, []string{"NVIDIA GeForce RTX 3090 nvlink 0000:1b:00.0", "NVIDIA GeForce RTX 3090 nvlink 0000:3b:00.0"}, names(r.round(), "nvlink"))

	s = nvmlsim.Host("switched", nvmlsim.A100SXM80GB(), 4)
	for _, g := range s.GPUs {
		g.Unset("GpuFabricInfo")
	}
	must.Eq(t, []string{"NVIDIA A100-SXM4-80GB nvlink switch"}, names(newRig(t, s).round(), "nvlink"))

	lone := nvmlsim.Host("lone", nvmlsim.L4(), 2)
	must.True(t, slices.Equal([]string{"NVIDIA L4"}, names(newRig(t, lone).round(), "nvlink")))
}
