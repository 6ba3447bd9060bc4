package gpu

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/device/control"
	"pangaea/e2e/nvmlsim"
)

// With nothing configured, the plugin of a real node notices an owner's program within two seconds; when Nomad's servers
// know, its client decides, which tells them of devices in batches. Both are logged for a quiet machine; that it takes the
// plugin one round is a test of its own.
func TestRootOwnerIsNoticed(t *testing.T) {
	const count = 12
	gpus := nvmlsim.Host("noticed", nvmlsim.RTX4090(), count)
	n := bring(t, gpus, "")
	game := exec.Command("sleep", "3600")
	must.NoError(t, game.Start())
	t.Cleanup(func() { _ = game.Process.Kill(); _ = game.Wait() })

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	isTaken := func(reason string) bool { return strings.HasPrefix(reason, "in use by its owner: sleep (") }
	watch := func(look func() map[string]string) <-chan map[string]time.Time {
		out := make(chan map[string]time.Time, 1)
		go func() {
			seen := make(map[string]time.Time)
			for len(seen) < count && ctx.Err() == nil {
				for id, reason := range look() {
					if isTaken(reason) && seen[id].IsZero() {
						seen[id] = time.Now()
					}
				}
			}
			out <- seen
		}()
		return out
	}
	dir := control.Dir(filepath.Join(n.Dir, "device"))
	plugin := watch(func() map[string]string {
		time.Sleep(20 * time.Millisecond)
		reasons := make(map[string]string)
		status, _ := dir.Status(time.Now())
		for _, g := range status.GPUs {
			reasons[g.UUID] = g.Reason
		}
		return reasons
	})
	query := (&api.QueryOptions{}).WithContext(ctx)
	servers := watch(func() map[string]string {
		info, meta, err := n.API().Nodes().Info(n.ID(), query)
		if err != nil {
			return nil
		}
		query.WaitIndex = meta.LastIndex
		return health(info)
	})

	began := make(map[string]time.Time)
	for i, g := range gpus.GPUs {
		time.Sleep(time.Duration(150+97*i%600) * time.Millisecond) // at any point of a round
		g.Processes = []nvmlsim.Process{{Kind: "compute", PID: game.Process.Pid, Bytes: 1 << 30}}
		began[g.UUID] = time.Now()
		must.NoError(t, n.SetGPUs(gpus))
	}
	for who, seen := range map[string]map[string]time.Time{"the plugin": <-plugin, "Nomad's servers": <-servers} {
		must.MapLen(t, count, seen)
		var took []time.Duration
		for id, at := range seen {
			took = append(took, at.Sub(began[id]).Round(time.Millisecond))
		}
		slices.Sort(took)
		t.Logf("%s: an owner's program is noticed after %v [%v-%v], n = %d", who, took[count/2], took[0], took[count-1], count)
	}
}
