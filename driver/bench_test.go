package driver

import (
	"slices"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// betweenStarts is what the driver gets to prepare the next start, as between most starts of a real node.
const betweenStarts = 150 * time.Millisecond

// BenchmarkRootStartTask measures StartTask for a cached image in a full sandbox, and its end. The medians are what to
// look at: other programs disturb the mean.
func BenchmarkRootStartTask(b *testing.B) {
	w := newWorld(b, nil)
	warm := w.prepare(b, sh("exit 0"), false)
	w.start(b, warm)
	w.wait(b, warm.ID)
	var start, end []time.Duration
	for b.Loop() {
		b.StopTimer()
		cfg := w.prepare(b, JobConfig{Command: "/bin/true"}, false)
		time.Sleep(betweenStarts)
		b.StartTimer()
		began := time.Now()
		_, _, err := w.driver.StartTask(cfg)
		must.NoError(b, err)
		start = append(start, time.Since(began))
		w.wait(b, cfg.ID)
		began = time.Now()
		must.NoError(b, w.driver.DestroyTask(cfg.ID, true))
		end = append(end, time.Since(began))
	}
	for name, times := range map[string][]time.Duration{"ms-start": start, "ms-destroy": end} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name)
	}
}
