package device

import (
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// With nothing configured, Nomad is told within two seconds that an owner's program is on his GPU. The figure is for a quiet
// machine and logged; what holds on any is that it takes one round ([TestOwnerFirst]), and how often there is one ([TestConfig]).
func TestOwnerIsNoticed(t *testing.T) {
	const count = 12
	s := nvmlsim.Host("notice", nvmlsim.RTX4090(), count)
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	p, _ := dispense(t, Config{Enabled: true, LibraryPath: library})
	stream, err := p.Fingerprint(t.Context())
	must.NoError(t, err)
	drain(t, stream)
	receiveGroup(t, stream, func(g *device.DeviceGroup) bool { return len(g.Devices) == count })

	game := exec.Command("sleep", "3600")
	must.NoError(t, game.Start())
	t.Cleanup(func() { _ = game.Process.Kill(); _ = game.Wait() })
	began, took := make([]time.Time, count), make([]time.Duration, count)
	next, started := time.After(0), 0
	deadline := time.After(soon)
	for slices.Contains(took, 0) {
		select {
		case <-next:
			s.GPUs[started].Processes = []nvmlsim.Process{{Kind: "compute", PID: game.Process.Pid, Bytes: 1 << 30}}
			began[started] = time.Now()
			must.NoError(t, nvmlsim.WriteState(statePath(), s))
			started++
			next = nil
			if started < count {
				next = time.After(time.Duration(200+rand.IntN(600)) * time.Millisecond) // at any point of a round
			}
		case r := <-stream:
			must.NoError(t, r.Error)
			for i, g := range s.GPUs[:started] {
				if took[i] == 0 && strings.HasPrefix(healthOf(r.Devices[0], g.UUID).HealthDesc, "in use by its owner: sleep (") {
					took[i] = time.Since(began[i])
				}
			}
		case <-deadline:
			t.Fatalf("noticed after %v only", took)
		}
	}
	slices.Sort(took)
	t.Logf("an owner's program is noticed after %v [%v-%v], n = %d", took[count/2], took[0], took[count-1], count)
}
