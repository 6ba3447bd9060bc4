package device

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"pangaea/device/metrics"
	"pangaea/device/nvml"
)

// serveMetrics answers Prometheus until the context ends. An address that cannot be had is tried again: it may be held
// by the plugin that this one takes over from.
func (m *monitor) serveMetrics(ctx context.Context, address string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", m.metrics)
	for ctx.Err() == nil {
		server := &http.Server{Addr: address, Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		err := server.ListenAndServe()
		stop()
		if ctx.Err() == nil {
			m.log.Warn("cannot serve metrics", "address", address, "error", err)
			sleep(ctx, 10*time.Second)
		}
	}
}

func (m *monitor) metrics(w http.ResponseWriter, _ *http.Request) {
	s := m.published.Load()
	samples := make(map[string]nvml.Sample)
	for _, r := range m.sample(s) {
		samples[r.unit.id] = r.sample
	}
	var gpus []metrics.GPU
	for _, u := range s.units {
		gpus = append(gpus, metrics.GPU{
			UUID: u.id, Model: u.name, BusID: u.busID, Index: u.index, Profile: u.profile, Driver: s.machine.DriverVersion,
			Healthy: u.healthy, Reason: u.reason,
			AllocID: u.task.AllocID, Task: u.task.Task, Namespace: u.task.Namespace, JobID: u.task.JobID, LastXid: u.lastXid, Sample: samples[u.id],
		})
	}
	slices.SortFunc(gpus, func(a, b metrics.GPU) int { return strings.Compare(a.UUID, b.UUID) })
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, err := w.Write(metrics.Text(gpus))
	if err != nil {
		m.log.Debug("a metrics reader went away", "error", err)
	}
}
