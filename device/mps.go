package device

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"pangaea/device/health"
	"pangaea/device/mps"
	"pangaea/device/nvml"
)

const (
	// tellWithin bounds how long the MPS control daemon may take over all that it is told at once.
	tellWithin = 10 * time.Second
	// tellAgain is how long after a failure it is told again.
	tellAgain = 10 * time.Second
	// firstMPSBounds is the compute capability from which on MPS bounds its clients: Volta's.
	firstMPSBounds = 7
)

// mpsShares sees to it that whoever shares a GPU by MPS is bounded there, by a control daemon that runs and was told. The
// monitor owns it.
type mpsShares struct {
	daemon            mps.Daemon
	replicas          int
	lookOnly          bool // tells the daemon nothing
	within, tellAgain time.Duration

	running mps.Process
	absent  string            // why no daemon runs
	want    map[string]uint64 // MiB for each share of the GPUs seen in this round, by UUID
	told    map[string]uint64 // what the running daemon was told

	answers  chan mpsAnswer // of the one telling that may be under way
	telling  bool
	failure  string // of the last one
	failures map[string]error
	failedAt time.Time
}

// mpsAnswer is what became of telling a daemon its bounds.
type mpsAnswer struct {
	to       mps.Process
	bounds   mps.Bounds
	failures map[string]error
	err      error
}

func newMPSShares(s settings) *mpsShares {
	if s.mps == nil {
		return nil
	}
	return &mpsShares{
		daemon: mps.Daemon{Dir: s.mps.dir, Proc: "/proc"}, replicas: s.replicas, within: tellWithin, tellAgain: tellAgain,
		want: make(map[string]uint64), told: make(map[string]uint64), answers: make(chan mpsAnswer, 1),
	}
}

// percent is each share's part of a GPU's threads.
func percent(replicas int) int { return 100 / replicas }

// look finds out which daemon runs now, and what the last one told has answered.
func (m *mpsShares) look(now time.Time) {
	running, err := m.daemon.Find()
	m.absent = ""
	if err != nil {
		m.absent = err.Error()
	}
	if running != m.running {
		m.running, m.failure, m.failures = running, "", nil
		clear(m.told)
	}
	clear(m.want)
	select {
	case a := <-m.answers:
		m.telling = false
		if a.to == m.running {
			m.heed(a, now)
		}
	default:
	}
}

func (m *mpsShares) heed(a mpsAnswer, now time.Time) {
	m.failure, m.failures = "", a.failures
	if a.err != nil {
		m.failure = a.err.Error()
	}
	if a.err != nil || len(a.failures) > 0 {
		m.failedAt = now
	}
	for uuid, mib := range a.bounds.MiB {
		if a.err == nil && a.failures[uuid] == nil {
			m.told[uuid] = mib
		}
	}
}

// judge takes the shares of a GPU back that MPS does not bound.
func (m *mpsShares) judge(g *gpu, p probe) {
	g.unbounded = cmp.Or(m.unfit(g, p), m.absent)
	if g.unbounded == "" {
		g.unbounded = m.untold(g)
	}
	if g.verdict.Healthy && g.unbounded != "" {
		g.verdict = health.Verdict{Reason: g.unbounded}
	}
}

// unfit is why MPS can't bound the shares of a GPU as it is.
func (m *mpsShares) unfit(g *gpu, p probe) string {
	memory := g.traits.Memory
	switch {
	case g.mig:
		return fmt.Sprintf(`MIG devices are not shared by MPS: take the GPU out of MIG mode (nvidia-smi -i %s -mig 0), or set the sharing mode to "time-sliced"`, g.uuid)
	case !g.traits.ComputeMajor.OK || g.traits.ComputeMajor.Value < firstMPSBounds:
		return `MPS bounds nobody on GPUs before Volta: set the sharing mode to "time-sliced", or name the GPU in ignored_gpu_ids`
	case !memory.OK || memory.Value/uint64(m.replicas) < mib:
		return "the GPU does not tell its memory, so that MPS can't bound a share of it: name it in ignored_gpu_ids"
	case !p.computeMode.OK:
		return "the GPU does not tell its compute mode, so that programs may go past MPS: name it in ignored_gpu_ids"
	case p.computeMode.Value != nvml.ExclusiveProcess:
		return fmt.Sprintf("its compute mode is %s, in which programs can go past MPS and its bounds: run nvidia-smi -i %s -c %s", p.computeMode.Value, g.uuid, nvml.ExclusiveProcess)
	}
	return ""
}

// untold is why a daemon that runs does not bound them yet.
func (m *mpsShares) untold(g *gpu) string {
	limit := g.traits.Memory.Value / uint64(m.replicas) / mib
	m.want[g.uuid] = limit
	switch {
	case m.lookOnly || m.told[g.uuid] == limit:
		return ""
	case m.failure != "":
		return m.failure
	case m.failures[g.uuid] != nil:
		return m.failures[g.uuid].Error()
	}
	return "the MPS control daemon is being told how much each share may use"
}

// tell begins to tell the daemon what it was not told yet, and pokes the monitor when that is done. The daemon may hang: then
// nobody waits for it.
func (m *mpsShares) tell(ctx context.Context, now time.Time, pokes chan<- struct{}) {
	failed := m.failure != "" || len(m.failures) > 0
	if m.lookOnly || m.telling || failed && now.Sub(m.failedAt) < m.tellAgain {
		return
	}
	bounds := mps.Bounds{Percent: percent(m.replicas), MiB: make(map[string]uint64)}
	for uuid, limit := range m.want {
		if m.told[uuid] != limit {
			bounds.MiB[uuid] = limit
		}
	}
	if len(bounds.MiB) == 0 {
		return
	}
	m.telling = true
	to, daemon, within := m.running, m.daemon, m.within
	go func() {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		failures, err := daemon.Tell(ctx, bounds)
		m.answers <- mpsAnswer{to: to, bounds: bounds, failures: failures, err: err}
		select {
		case pokes <- struct{}{}:
		default: // a round is asked for already
		}
	}()
}
