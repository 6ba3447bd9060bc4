package record

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestDecide(t *testing.T) {
	boot := Facts{SameBoot: true}
	with := func(changes ...func(*Facts)) Facts {
		f := boot
		for _, change := range changes {
			change(&f)
		}
		return f
	}
	state := func(f *Facts) { f.HasState = true }
	exit := func(f *Facts) { f.HasExit = true }
	initAlive := func(f *Facts) { f.InitAlive = true }
	shim := func(f *Facts) { f.ShimAlive = true }
	started := func(f *Facts) { f.Started = true }
	populated := func(f *Facts) { f.Populated = true }
	rebooted := func(f *Facts) { f.SameBoot = false }

	tests := []struct {
		name  string
		given Facts
		want  Verdict
	}{
		{"runs under its shim", with(state, initAlive, shim, started, populated), Running},
		{"is held by its lease", with(state, initAlive, shim, populated), Running},
		{"runs without its shim", with(state, initAlive, started, populated), Adopt},
		{"was created, and nobody can start it", with(state, initAlive, populated), Orphan},
		{"has ended, the shim writes how", with(state, shim, started), Ending},
		{"has ended, the shim is about to kill the rest", with(state, shim, started, populated), Ending},
		{"has ended and is recorded", with(state, exit, started), Exited},
		{"has ended and is recorded, the shim is about to go", with(state, exit, shim, started), Exited},
		{"has ended before it had a state", with(exit), Exited},
		{"has ended in an earlier life of the machine", with(state, exit, rebooted), Exited},
		{"ran when the machine was restarted", with(state, started, rebooted), Gone},
		{"pids are reused after a restart", with(state, initAlive, shim, started, populated, rebooted), Gone},
		{"was killed along with its shim", with(state, started), Gone},
		{"was killed along with its shim, children are left", with(state, started, populated), Orphan},
		{"was being created", with(populated), Orphan},
		{"was never created", with(), Gone},
		{"was never created, and the machine restarted", with(rebooted), Gone},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { must.Eq(t, tc.want, Decide(tc.given)) })
	}
}

// Whatever the facts, these hold.
func TestDecideInvariants(t *testing.T) {
	for bits := range 1 << 7 {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		f := Facts{
			HasState: bit(0), HasExit: bit(1), SameBoot: bit(2), InitAlive: bit(3),
			ShimAlive: bit(4), Started: bit(5), Populated: bit(6),
		}
		got := Decide(f)
		must.Eq(t, f.HasExit, got == Exited, must.Sprintf("an exit code is neither lost nor made up: %+v", f))
		if got == Running || got == Adopt {
			must.True(t, f.HasState && f.SameBoot && f.InitAlive, must.Sprintf("what runs is recorded and lives: %+v", f))
		}
		if got == Gone && f.SameBoot {
			must.False(t, f.Populated, must.Sprintf("nothing that is left is forgotten: %+v", f))
		}
		if got == Adopt {
			must.True(t, f.Started && !f.ShimAlive, must.Sprintf("only what runs without a shim gets a new one: %+v", f))
		}
	}
}
