package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/plugins/drivers"

	"pangaea/driver/supervisor"
)

// minStatsInterval keeps a caller's zero from becoming a busy loop.
const minStatsInterval = 250 * time.Millisecond

// TaskStats streams what a task uses, once at once and then every interval, until it ends.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	h, ok := d.task(id)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	d.mu.Lock()
	compute := d.compute
	d.mu.Unlock()
	if compute.NumCores == 0 {
		compute.NumCores = hostCPUs()
	}
	ch := make(chan *drivers.TaskResourceUsage)
	err := d.spawn(func() {
		defer close(ch)
		d.measure(ctx, h, newMeter(compute), max(interval, minStatsInterval), ch)
	})
	return ch, err
}

func (d *Driver) measure(ctx context.Context, h *handle, m *meter, interval time.Duration, ch chan<- *drivers.TaskResourceUsage) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		stats, err := h.task.Stats()
		if err != nil {
			if h.running() {
				d.log.Debug("cannot measure task", "task_id", h.config.ID, "error", err)
			}
		} else {
			select {
			case ch <- m.usage(stats):
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-d.ctx.Done():
			return
		case <-h.task.Done():
			return
		case <-ticker.C:
		}
	}
}

// meter turns totals into rates, one per stream because each has its own interval.
type meter struct{ total, user, system *cpustats.Tracker }

func newMeter(c cpustats.Compute) *meter {
	return &meter{total: cpustats.New(c), user: cpustats.New(c), system: cpustats.New(c)}
}

func (m *meter) usage(s supervisor.Stats) *drivers.TaskResourceUsage {
	percent := m.total.Percent(float64(s.CPUTotal))
	usage := &drivers.ResourceUsage{
		MemoryStats: &drivers.MemoryStats{
			RSS: s.MemoryRSS, Cache: s.MemoryCache, Swap: s.MemorySwap, MappedFile: s.MappedFile,
			Usage: s.MemoryUsage, MaxUsage: s.MemoryMaxUsage, KernelUsage: s.KernelUsage,
			Measured: []string{"RSS", "Cache", "Swap", "Mapped File", "Usage", "Max Usage", "Kernel Usage"},
		},
		CpuStats: &drivers.CpuStats{
			SystemMode: m.system.Percent(float64(s.CPUSystem)), UserMode: m.user.Percent(float64(s.CPUUser)),
			Percent: percent, TotalTicks: m.total.TicksConsumed(percent),
			ThrottledPeriods: s.ThrottledPeriods, ThrottledTime: s.ThrottledTime,
			Measured: []string{"System Mode", "User Mode", "Percent", "Total Ticks", "Throttled Periods", "Throttled Time"},
		},
	}
	return &drivers.TaskResourceUsage{ResourceUsage: usage, Timestamp: s.At.UTC().UnixNano()}
}
