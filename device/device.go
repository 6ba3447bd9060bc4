package device

import (
	"context"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

var _ device.DevicePlugin = (*Plugin)(nil)

// Plugin is the device plugin as Nomad drives it. Its monitor starts with the first call that needs it.
type Plugin struct {
	ctx context.Context //nolint:containedctx // the plugin's life, which no call's context spans
	log hclog.Logger

	cleanWithin time.Duration

	mu       sync.Mutex
	settings settings
	monitor  *monitor
}

// New makes a plugin that lives as long as the context. It touches no GPU.
func New(ctx context.Context, log hclog.Logger) *Plugin {
	return &Plugin{ctx: ctx, log: log.Named(pluginName), cleanWithin: cleanWithin, settings: Config{Enabled: true}.understand()}
}

// PluginInfo tells Nomad what this is.
func (p *Plugin) PluginInfo() (*base.PluginInfoResponse, error) { return pluginInfo(), nil }

// ConfigSchema tells Nomad what may be configured.
func (p *Plugin) ConfigSchema() (*hclspec.Spec, error) { return configSchema(), nil }

// SetConfig takes the configuration. Mistakes in it are logged, or reported as the GPUs' health: an error here would
// stop the whole Nomad agent.
func (p *Plugin) SetConfig(c *base.Config) error {
	config := Config{Enabled: true}
	if len(c.PluginConfig) > 0 {
		err := base.MsgPackDecode(c.PluginConfig, &config)
		if err != nil {
			return err
		}
	}
	s := config.understand()
	for _, warning := range s.warnings {
		p.log.Warn("configuration is wrong", "problem", warning)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = s
	return nil
}

// watching is the monitor, started now if it was not.
func (p *Plugin) watching() *monitor {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.monitor == nil {
		p.monitor = newMonitor(p.settings, p.log, p.restart)
		go p.monitor.run(p.ctx)
		go p.monitor.evict(p.ctx, p.settings.nomad)
		go p.monitor.report(p.ctx)
		if p.settings.metrics != "" {
			go p.monitor.serveMetrics(p.ctx, p.settings.metrics)
		}
	}
	return p.monitor
}

// restart ends the process: Nomad starts the plugin anew at once and keeps its devices meanwhile.
func (p *Plugin) restart(reason string) {
	p.log.Warn("ending, for Nomad to start a fresh plugin", "reason", reason)
	os.Exit(1)
}

// Fingerprint sends the GPUs now and at every change. The first answer may be empty: Nomad waits for it at start.
func (p *Plugin) Fingerprint(ctx context.Context) (<-chan *device.FingerprintResponse, error) {
	p.mu.Lock()
	enabled, groupBy := p.settings.enabled, p.settings.groupBy
	p.mu.Unlock()
	if !enabled {
		return nil, device.ErrPluginDisabled
	}
	out := make(chan *device.FingerprintResponse)
	go p.fingerprint(ctx, p.watching(), groupBy, out)
	return out, nil
}

func (p *Plugin) fingerprint(ctx context.Context, m *monitor, groupBy string, out chan<- *device.FingerprintResponse) {
	defer close(out)
	var sent []*device.DeviceGroup
	first := true
	s := m.published.Load()
	for {
		if s.round > 0 {
			now := groups(s, groupBy)
			if first || !reflect.DeepEqual(sent, now) {
				select {
				case out <- device.NewFingerprint(now...):
				case <-ctx.Done():
					return
				}
				sent, first = now, false
			}
		}
		select {
		case <-s.changed:
			s = m.published.Load()
		case <-ctx.Done():
			return
		}
	}
}
