package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"pangaea/driver/apparmor"
	"pangaea/driver/egress"
)

// Driver is the task driver "runc". Its methods are called by Nomad's plugin server, concurrently.
type Driver struct {
	log    hclog.Logger
	ctx    context.Context //nolint:containedctx // the plugin's lifetime
	cancel context.CancelFunc
	events *eventer.Eventer
	wg     sync.WaitGroup

	mu       sync.Mutex
	conf     *settings
	compute  cpustats.Compute
	tools    *tools
	tasks    map[string]*handle
	starting map[string]*underway
	swept    bool
	sweeping map[string]chan struct{} // sandboxes; closed when one is done with
	egress   *egress.Network          // nil until first used
	runtimes inspector
	armor    armor
	networks map[string]networkUse // of groups, by task
	allocs   string                // where allocations lie, once known
	foreseen *time.Timer           // ends the looking out for a task; nil until there was one
}

var _ drivers.DriverPlugin = (*Driver)(nil)

// Serve runs the plugin until Nomad ends it.
func Serve() {
	plugins.Serve(func(logger hclog.Logger) any { return New(logger) })
}

// New returns an unconfigured driver. It does no I/O.
func New(logger hclog.Logger) *Driver {
	ctx, cancel := context.WithCancel(context.Background())
	logger = logger.Named(pluginName)
	return &Driver{
		log: logger, ctx: ctx, cancel: cancel,
		events:   eventer.NewEventer(ctx, logger),
		conf:     newSettings(Config{}),
		armor:    armor{host: apparmor.Host{Root: "/"}},
		tasks:    map[string]*handle{},
		starting: map[string]*underway{},
		networks: map[string]networkUse{},
		sweeping: map[string]chan struct{}{},
	}
}

// Shutdown ends what the driver runs in the background, and leaves the tasks alone.
func (d *Driver) Shutdown() {
	d.mu.Lock()
	d.cancel()
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tools != nil {
		d.tools.supervisor.Close()
		err := errors.Join(d.tools.outlines.Clear(), d.tools.images.Close())
		if err != nil {
			d.log.Warn("cannot end all that the driver keeps ready", "error", err)
		}
		d.tools = nil
	}
	if d.egress != nil {
		d.egress.Close()
		d.egress = nil
	}
}

// errShutdown answers calls that come while the plugin ends. Nomad repeats them on the next plugin process.
var errShutdown = errors.New("the driver is shutting down")

// spawn runs f in a goroutine that Shutdown waits for, unless that has begun.
func (d *Driver) spawn(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spawnLocked(f)
}

// spawnLocked is spawn for callers that hold mu, which is what orders it against Shutdown's waiting.
func (d *Driver) spawnLocked(f func()) error {
	if d.ctx.Err() != nil {
		return errShutdown
	}
	d.wg.Go(f)
	return nil
}

// PluginInfo says what this plugin is.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) { return pluginInfo(), nil }

// ConfigSchema describes the operator's configuration.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) { return configSpec(), nil }

// SetConfig takes the operator's configuration. Nomad's agent does not start if this fails, so a bad option shows in
// the fingerprint instead.
func (d *Driver) SetConfig(c *base.Config) error {
	var config Config
	if len(c.PluginConfig) > 0 {
		err := base.MsgPackDecode(c.PluginConfig, &config)
		if err != nil {
			return fmt.Errorf("cannot read the driver's configuration: %w", err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conf = newSettings(config)
	// In Nomad's validation pass there is neither an agent nor a topology.
	if c.AgentConfig != nil && c.AgentConfig.Driver != nil && c.AgentConfig.Driver.Topology != nil {
		d.compute = c.AgentConfig.Compute()
	}
	return nil
}

// TaskConfigSchema describes the job's configuration.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	d.foresee()
	return jobSpec(), nil
}

// Capabilities says what the driver can do.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	d.foresee()
	return capabilities(), nil
}

// TaskEvents streams what happens to tasks, such as the progress of a pull.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	ch, err := d.events.TaskEvents(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot stream task events: %w", err)
	}
	return ch, nil
}

func (d *Driver) settings() *settings {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conf
}

func (d *Driver) task(id string) (*handle, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.tasks[id]
	return h, ok
}

// keep makes a task known, and says false if it already is.
func (d *Driver) keep(h *handle) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.tasks[h.config.ID]; known {
		return false
	}
	d.tasks[h.config.ID] = h
	return true
}
