package device

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// What the owner claims is asked back once at first, and again while he still claims it; what he does not is left alone.
func TestClaimsAreEvicted(t *testing.T) {
	s := nvmlsim.Host("evict", nvmlsim.RTX4090(), 2)
	file := filepath.Join(t.TempDir(), "reclaim")
	r := newRig(t, s, func(set *settings) {
		set.evict = true
		set.owner.ReclaimFile = file
	})
	must.Eq(t, allWell(s), r.round().health())
	must.Eq(t, 0, len(r.monitor.evictions))
	cases := []struct {
		name, text string
		want       map[string]string
	}{
		{"one GPU", "# back please\n" + s.GPUs[1].UUID + "\n", map[string]string{s.GPUs[0].UUID: "", s.GPUs[1].UUID: "reclaimed by its owner"}},
		{"all", "", map[string]string{s.GPUs[0].UUID: "reclaimed by its owner", s.GPUs[1].UUID: "reclaimed by its owner"}},
	}
	for _, c := range cases {
		must.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
		must.Eq(t, c.want, r.round().health(), must.Sprint(c.name))
		for id, reason := range c.want {
			if reason == "" {
				continue
			}
			e := receive(t, r.monitor.evictions, 5*time.Second)
			must.Eq(t, "reclaimed by its owner", e.reason)
			must.MapContainsKey(t, c.want, e.uuid, must.Sprint(id))
			must.Eq(t, []string{e.uuid}, e.ids)
			must.Eq(t, "reclaimed by its owner", c.want[e.uuid])
		}
		must.Eq(t, 0, len(r.monitor.evictions))
	}
	must.NoError(t, os.Remove(file))
	must.Eq(t, allWell(s), r.round().health())
	must.Eq(t, 0, len(r.monitor.evictions))
}

// Without the option nothing is ever stopped, and sickness is no claim.
func TestNothingElseIsEvicted(t *testing.T) {
	s := nvmlsim.Host("spare", nvmlsim.RTX4090(), 1)
	file := filepath.Join(t.TempDir(), "reclaim")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	quiet := newRig(t, s, func(set *settings) { set.owner.ReclaimFile = file })
	quiet.round()
	must.Eq(t, 0, len(quiet.monitor.evictions))

	sick := newRig(t, s, func(set *settings) { set.evict = true })
	s.GPUs[0].Set("RemappedRows", 0, 1, 1, 0)
	sick.write()
	must.NotEq(t, allWell(s), sick.round().health())
	must.Eq(t, 0, len(sick.monitor.evictions))
}
