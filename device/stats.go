package device

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/device/nvml"
)

// Stats sends what every GPU is doing, at each interval. A GPU that does not answer in time is left out of that round.
func (p *Plugin) Stats(ctx context.Context, interval time.Duration) (<-chan *device.StatsResponse, error) {
	p.mu.Lock()
	enabled, groupBy := p.settings.enabled, p.settings.groupBy
	p.mu.Unlock()
	if !enabled {
		return nil, device.ErrPluginDisabled
	}
	if interval <= 0 {
		interval = time.Second
	}
	m := p.watching()
	out := make(chan *device.StatsResponse)
	go func() {
		defer close(out)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			response := &device.StatsResponse{Groups: m.sampleAll(groupBy)}
			select {
			case <-ctx.Done():
				return
			case out <- response:
			}
		}
	}()
	return out, nil
}

type sampled struct {
	unit   unit
	sample nvml.Sample
	at     time.Time
}

// sampleAll is what Nomad is told of every GPU that answers.
func (m *monitor) sampleAll(groupBy string) []*device.DeviceGroupStats {
	var all statsGroups
	for _, r := range m.sample(m.published.Load()) {
		all.add(r, groupBy)
	}
	return all.groups
}

// sample asks every GPU in its own worker, one after another unless they are slow, and waits for those that answer in time.
func (m *monitor) sample(s *snapshot) []sampled {
	results := make(chan []sampled, len(s.units))
	all := make([]sampled, 0, len(s.units))
	asked := 0
	collect := func(within time.Duration) {
		enough := m.after(within)
		for asked > 0 {
			r, ok := take(results, &enough)
			if !ok {
				return
			}
			asked--
			all = append(all, r...)
		}
	}
	for _, units := range bySampler(s.units) {
		if m.ask(s.epoch, units, results) {
			asked++
			collect(m.stagger)
		}
	}
	collect(m.patience)
	return all
}

// ask begins a sample for units that share one: the replicas of a GPU. It tells whether its worker took it.
func (m *monitor) ask(epoch uint64, units []unit, results chan<- []sampled) bool {
	u := units[0]
	if !u.live || u.worker == nil || u.worker.trace.Current() != nil && !u.healthy {
		return false
	}
	return u.worker.do(m.stagger, func() {
		var all []sampled // stays empty if the driver went away
		m.session.during(epoch, func() {
			sample, at := u.sampler.Sample(u.device, m.slowEvery), time.Now()
			for _, u := range units {
				all = append(all, sampled{unit: u, sample: sample, at: at})
			}
		})
		results <- all
	})
}

// bySampler parts units, which are in order, into those that share a sampler.
func bySampler(units []unit) [][]unit {
	var parts [][]unit
	for len(units) > 0 {
		n := 1
		for n < len(units) && units[n].sampler == units[0].sampler && units[0].sampler != nil {
			n++
		}
		parts = append(parts, units[:n])
		units = units[n:]
	}
	return parts
}

// statsGroups puts units into the groups that Nomad knows them by.
type statsGroups struct{ groups []*device.DeviceGroupStats }

func (s *statsGroups) add(r sampled, groupBy string) {
	name := groupName(r.unit, groupBy)
	i := slices.IndexFunc(s.groups, func(g *device.DeviceGroupStats) bool { return g.Name == name })
	if i < 0 {
		i = len(s.groups)
		s.groups = append(s.groups, &device.DeviceGroupStats{Vendor: vendor, Type: deviceType, Name: name, InstanceStats: make(map[string]*device.DeviceStats)})
	}
	s.groups[i].InstanceStats[r.unit.id] = deviceStats(r)
}

func deviceStats(r sampled) *device.DeviceStats {
	all := statistics(r.sample, r.unit.lastXid)
	summary := all[memoryState]
	if summary == nil {
		summary = &structs.StatValue{StringVal: new(string), Desc: "The GPU does not tell its memory"}
	}
	return &device.DeviceStats{Summary: summary, Stats: &structs.StatObject{Attributes: all}, Timestamp: r.at}
}
