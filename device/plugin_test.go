package device

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// servePlugin in the environment makes the test binary the plugin itself.
const servePlugin = "PANGAEA_TEST_SERVE_DEVICE"

// dispense starts the plugin as Nomad does: a process of its own, spoken to over gRPC.
func dispense(t *testing.T, config Config) (device.DevicePlugin, *plugin.Client) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), servePlugin+"=1")
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  base.Handshake,
		Plugins:          map[string]plugin.Plugin{base.PluginTypeBase: &base.PluginBase{}, base.PluginTypeDevice: &device.PluginDevice{}},
		Cmd:              cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	t.Cleanup(client.Kill)
	rpc, err := client.Client()
	must.NoError(t, err)
	raw, err := rpc.Dispense(base.PluginTypeDevice)
	must.NoError(t, err)
	p := raw.(device.DevicePlugin)
	if config.ControlDir == "" {
		config.ControlDir, config.HoldsDir = t.TempDir(), t.TempDir()
	}
	var packed []byte
	must.NoError(t, base.MsgPackEncode(&packed, &config))
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: packed}))
	return p, client
}

// receive is the next message.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		must.True(t, ok, must.Sprint("the stream ended"))
		return v
	case <-time.After(soon):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// receiveGroup is the only group of the next message that is as wanted: a GPU that is slow to answer comes with a later one.
func receiveGroup(t *testing.T, from <-chan *device.FingerprintResponse, wanted func(*device.DeviceGroup) bool) *device.DeviceGroup {
	t.Helper()
	for {
		r := receive(t, from)
		must.NoError(t, r.Error)
		if len(r.Devices) == 0 {
			continue
		}
		must.Len(t, 1, r.Devices)
		if wanted(r.Devices[0]) {
			return r.Devices[0]
		}
	}
}

// drain lets Nomad's client end: it blocks for ever on a message that nobody takes.
func drain[T any](t *testing.T, from <-chan T) {
	t.Helper()
	t.Cleanup(func() {
		go func() {
			for range from { // until the plugin is killed
			}
		}()
	})
}

func TestPluginOverGRPC(t *testing.T) {
	s := nvmlsim.Host("grpc", nvmlsim.H100SXM(), 2)
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	p, client := dispense(t, Config{Enabled: true, LibraryPath: library, FingerprintPeriod: "200ms", RecoverAfter: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	info, err := p.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "pangaea-device", info.Name)

	stream, err := p.Fingerprint(ctx)
	must.NoError(t, err)
	drain(t, stream)
	g := receiveGroup(t, stream, func(g *device.DeviceGroup) bool { return len(g.Devices) == 2 })
	must.Eq(t, "nvidia/gpu/NVIDIA H100 80GB HBM3", g.Vendor+"/"+g.Type+"/"+g.Name)
	must.Len(t, 2, g.Devices)
	must.NoError(t, g.Validate())
	must.Eq(t, "0000:1b:00.0", busOf(g, s.GPUs[0].UUID))
	must.Eq(t, int64(81559), *g.Attributes["memory"].Int)

	granted, err := p.Reserve([]string{s.GPUs[1].UUID})
	must.NoError(t, err)
	must.Eq(t, s.GPUs[1].UUID, granted.Envs["NVIDIA_VISIBLE_DEVICES"])

	stats, err := p.Stats(ctx, 100*time.Millisecond)
	must.NoError(t, err)
	drain(t, stats)
	for { // a GPU that does not answer in time is left out
		one := receive(t, stats)
		must.NoError(t, one.Error)
		if len(one.Groups) == 1 && len(one.Groups[0].InstanceStats) == 2 {
			break
		}
	}

	s.GPUs[1].Lose()
	must.NoError(t, nvmlsim.WriteState(statePath(), s))
	second := receiveGroup(t, stream, func(g *device.DeviceGroup) bool { return !healthOf(g, s.GPUs[1].UUID).Healthy })
	must.True(t, healthOf(second, s.GPUs[0].UUID).Healthy)
	sick := healthOf(second, s.GPUs[1].UUID)
	must.StrHasPrefix(t, "fallen off the bus", sick.HealthDesc)
	attributes := second.Attributes
	must.Eq(t, sick.HealthDesc, *attributes["unique.unhealthy."+sick.ID].String, must.Sprint("what nomad node status -verbose shows"))
	delete(attributes, "unique.unhealthy."+sick.ID)
	must.Eq(t, int64(1), *attributes["healthy"].Int, must.Sprint("what makes Nomad look at waiting jobs again"))
	must.Eq(t, int64(2), *g.Attributes["healthy"].Int)
	attributes["healthy"] = g.Attributes["healthy"]
	must.Eq(t, g.Attributes, attributes, must.Sprint("attributes outlast sickness"))
	_, err = p.Reserve([]string{s.GPUs[1].UUID})
	must.ErrorContains(t, err, "it is unhealthy: fallen off the bus")

	// Nomad starts a plugin anew when its process ended, and only then keeps the devices.
	client.Kill()
	last := receive(t, stream)
	for last.Error == nil { // a change that was under way
		last = receive(t, stream)
	}
	must.Eq(t, "plugin is shut down", last.Error.Error())
}

func healthOf(g *device.DeviceGroup, id string) *device.Device {
	for _, d := range g.Devices {
		if d.ID == id {
			return d
		}
	}
	return &device.Device{}
}

func busOf(g *device.DeviceGroup, id string) string { return healthOf(g, id).HwLocality.PciBusID }

// A plugin without a library answers, with nothing, and the GPUs come when the library does.
func TestPluginWithoutLibrary(t *testing.T) {
	path := t.TempDir() + "/libnvidia-ml.so.1"
	p, _ := dispense(t, Config{Enabled: true, LibraryPath: path, FingerprintPeriod: "100ms"})
	stream, err := p.Fingerprint(t.Context())
	must.NoError(t, err)
	drain(t, stream)
	must.SliceEmpty(t, receive(t, stream).Devices)
	_, err = p.Reserve([]string{"GPU-x"})
	must.ErrorContains(t, err, `cannot reserve GPU "GPU-x": libnvidia-ml.so.1 not found: install the NVIDIA driver`)
	must.NoError(t, nvmlsim.WriteState(statePath(), nvmlsim.Host("x", nvmlsim.T4(), 3)))
	must.NoError(t, os.Symlink(library, path))
	g := receiveGroup(t, stream, func(g *device.DeviceGroup) bool { return len(g.Devices) == 3 })
	must.Eq(t, "Tesla T4", g.Name)
}

func TestDisabledPlugin(t *testing.T) {
	p, _ := dispense(t, Config{Enabled: false})
	stream, err := p.Fingerprint(t.Context())
	must.NoError(t, err)
	drain(t, stream)
	must.ErrorContains(t, receive(t, stream).Error, device.ErrPluginDisabled.Error())
	stats, err := p.Stats(t.Context(), time.Second)
	must.NoError(t, err)
	drain(t, stats)
	must.ErrorContains(t, receive(t, stats).Error, device.ErrPluginDisabled.Error())
}

// A plugin that is only asked about itself touches no library: Nomad does so several times at boot.
func TestConstructorsDoNoIO(t *testing.T) {
	p := New(t.Context(), hclog.NewNullLogger())
	_, err := p.PluginInfo()
	must.NoError(t, err)
	_, err = p.ConfigSchema()
	must.NoError(t, err)
	must.NoError(t, p.SetConfig(&base.Config{}))
	must.Nil(t, p.monitor)
}

// answerPokes stands in for the monitor's rounds: nothing changes.
func (m *monitor) answerPokes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.pokes:
		}
		last := m.published.Load()
		next := *last
		next.began, next.changed = time.Now(), make(chan struct{})
		m.published.Store(&next)
		close(last.changed)
	}
}

func TestReserve(t *testing.T) {
	const a, b = "GPU-1a-b", "MIG-2c"
	s := &snapshot{round: 1, units: []unit{
		{id: a, healthy: true},
		{id: b, healthy: true},
		{id: "GPU-sick", reason: "row remap pending: reset the GPU"},
		{id: "GPU-s::0", healthy: true},
		{id: "GPU-s::1", healthy: true},
		{id: "GPU-t::1", healthy: true},
	}}
	cases := []struct {
		name string
		ids  []string
		env  map[string]string
		fail string
	}{
		{"none", nil, nil, ""},
		{"one", []string{a}, map[string]string{"PANGAEA_GPU_GPU_1a_b": a, "NVIDIA_VISIBLE_DEVICES": a}, ""},
		{"two", []string{b, a}, map[string]string{"PANGAEA_GPU_GPU_1a_b": a, "PANGAEA_GPU_MIG_2c": b, "NVIDIA_VISIBLE_DEVICES": b + "," + a}, ""},
		{"replicas", []string{"GPU-s::0", "GPU-t::1"}, map[string]string{
			"PANGAEA_GPU_GPU_s__0": "GPU-s", "PANGAEA_GPU_GPU_t__1": "GPU-t",
			"NVIDIA_VISIBLE_DEVICES": "GPU-s,GPU-t",
		}, ""},
		{"two replicas of one GPU", []string{"GPU-s::0", "GPU-s::1"}, nil, "the task has another share of the same GPU"},
		{"a shared GPU as a whole", []string{"GPU-s"}, nil, "no such GPU here"},
		{"unknown", []string{a, "GPU-9"}, nil, `cannot reserve GPU "GPU-9": no such GPU here`},
		{"all", []string{"all"}, nil, `cannot reserve GPU "all": no such GPU here`},
		{"twice", []string{a, a}, nil, `cannot reserve GPU "GPU-1a-b": asked for twice`},
		{"sick", []string{"GPU-sick"}, nil, "it is unhealthy: row remap pending: reset the GPU"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := New(t.Context(), hclog.NewNullLogger())
			p.monitor = newMonitor(p.settings, p.log, p.restart)
			shown := *s
			shown.changed = make(chan struct{})
			p.monitor.published.Store(&shown)
			go p.monitor.answerPokes(t.Context())
			r, err := p.Reserve(c.ids)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
				return
			}
			must.NoError(t, err)
			must.Eq(t, &device.ContainerReservation{Envs: c.env}, r)
		})
	}
}
