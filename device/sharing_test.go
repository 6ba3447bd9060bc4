package device

import (
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

func TestReplicasFollowTheirGPU(t *testing.T) {
	s := nvmlsim.Host("shared", nvmlsim.L4(), 2)
	r := newRig(t, s, func(set *settings) { set.replicas = 4 })
	all := groups(r.round(), "")
	must.Len(t, 1, all)
	must.Eq(t, "NVIDIA L4 shared", all[0].Name)
	must.Len(t, 8, all[0].Devices)
	must.Eq(t, int64(23034/4), *all[0].Attributes["memory"].Int)
	must.Eq(t, int64(4), *all[0].Attributes["replicas"].Int)

	s.GPUs[0].Lose()
	r.write()
	sick := 0
	for id, reason := range r.round().health() {
		must.Eq(t, card(id) == s.GPUs[0].UUID, reason != "")
		if reason != "" {
			sick++
		}
	}
	must.Eq(t, 4, sick)
	must.MapLen(t, 4, r.monitor.sampleAll("")[0].InstanceStats)
}

func TestOwnerMustAllowReplicas(t *testing.T) {
	for _, replicas := range []int{0, 1} {
		got := replicate([]unit{{id: "GPU-a", name: "NVIDIA L4"}}, settings{replicas: replicas})
		must.Len(t, 1, got)
		must.Eq(t, "GPU-a", got[0].id)
		must.Eq(t, "NVIDIA L4", got[0].name)
	}
}
