package driver

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// BenchmarkRootStartTask measures StartTask for a cached image in a full sandbox, and its end.
func BenchmarkRootStartTask(b *testing.B) {
	w := newWorld(b, nil)
	warm := w.prepare(b, sh("exit 0"), false)
	w.start(b, warm)
	w.wait(b, warm.ID)
	var start, end time.Duration
	for b.Loop() {
		b.StopTimer()
		cfg := w.prepare(b, JobConfig{Command: "/bin/true"}, false)
		b.StartTimer()
		began := time.Now()
		_, _, err := w.driver.StartTask(cfg)
		must.NoError(b, err)
		start += time.Since(began)
		w.wait(b, cfg.ID)
		began = time.Now()
		must.NoError(b, w.driver.DestroyTask(cfg.ID, true))
		end += time.Since(began)
	}
	b.ReportMetric(float64(start.Microseconds())/1000/float64(b.N), "ms/start")
	b.ReportMetric(float64(end.Microseconds())/1000/float64(b.N), "ms/destroy")
}
