package device

import (
	"context"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/e2e/nvmlsim"
)

// benchRig is a monitor over eight simulated GPUs. The simulator's own work, a stat of its file for each call included,
// is part of what is measured.
func benchRig(b *testing.B) *monitor {
	b.Helper()
	err := nvmlsim.WriteState(statePath(), nvmlsim.Host("bench", nvmlsim.H100SXM(), 8))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := newMonitor(Config{Enabled: true, LibraryPath: library, ControlDir: b.TempDir()}.understand(), hclog.NewNullLogger(), func(string) {})
	m.session.worker = startWorker(ctx, m.after)
	m.watchFor = shortWatch
	b.Cleanup(func() {
		m.endWatchers()
		cancel()
		m.session.shut()
	})
	m.round(ctx, time.Now())
	return m
}

// BenchmarkRound is one look at eight GPUs as it is made every fingerprint_period, and cpu% what that costs of one core.
func BenchmarkRound(b *testing.B) {
	m := benchRig(b)
	measure(b, defaultPeriod, func() { m.round(context.Background(), time.Now()) })
}

// BenchmarkFingerprint is the look with all limits read anew, and its translation into what Nomad is sent.
func BenchmarkFingerprint(b *testing.B) {
	m := benchRig(b)
	now := time.Now()
	measure(b, traitsEvery, func() {
		now = now.Add(traitsEvery)
		m.round(context.Background(), now)
		groups(m.published.Load(), "")
	})
}

// BenchmarkStats is one round of statistics of eight GPUs, and cpu% what one a second costs of one core.
func BenchmarkStats(b *testing.B) {
	m := benchRig(b)
	measure(b, time.Second, func() { m.sampleAll("") })
}

func measure(b *testing.B, every time.Duration, f func()) {
	b.ReportAllocs()
	before := cpuTime()
	for b.Loop() {
		f()
	}
	each := float64(cpuTime()-before) / float64(b.N)
	b.ReportMetric(100*each/float64(every), "cpu%")
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(mem.HeapInuse)/mib, "heap-MiB")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	if err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
