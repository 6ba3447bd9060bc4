package device

import (
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// With nothing configured, Nomad is told within two seconds that an owner's program is on his GPU. The figure is for a quiet
// machine and logged; what is asserted holds on any.
func TestOwnerIsNoticed(t *testing.T) {
	const count = 12
	s := nvmlsim.Host("notice", nvmlsim.RTX4090(), count)
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	p, _ := dispense(t, Config{Enabled: true, LibraryPath: library})
	stream, err := p.Fingerprint(t.Context())
	must.NoError(t, err)
	drain(t, stream)
	must.Len(t, count, receive(t, stream, 20*time.Second).Devices[0].Devices)

	game := exec.Command("sleep", "3600")
	must.NoError(t, game.Start())
	t.Cleanup(func() { _ = game.Process.Kill(); _ = game.Wait() })
	began, took := make([]time.Time, count), make([]time.Duration, count)
	next, started := time.After(0), 0
	deadline := time.After(time.Minute)
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
	must.Less(t, 15*time.Second, took[count-1])
}
