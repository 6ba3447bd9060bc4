package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"
)

// world is a machine on which all is well, until a test breaks something.
type world struct {
	t     *testing.T
	host  Host
	agent http.HandlerFunc // answers for Nomad's agent
	self  map[string]any
	node  *api.Node
	rules string // iptables -S FORWARD
	runc  *fakePlugin
	gpus  *fakePlugin

	config []string
	consul string
}

const (
	allCaps = "000001ffffffffff"
	config  = `
data_dir   = "/opt/nomad"
plugin_dir = "/opt/nomad/plugins"
client {
  enabled  = true
  cni_path = "/usr/lib/cni"
  options { "driver.allowlist" = "runc" }
}
plugin "pangaea-driver" {
  config { depth = 3 }
}
plugin "pangaea-device" { config {} }
`
)

func newWorld(t *testing.T) *world {
	w := &world{t: t, rules: "-P FORWARD ACCEPT\n", runc: &fakePlugin{name: "driver runc"}, gpus: &fakePlugin{name: "device nvidia/gpu"}}
	now := time.Now()
	w.host = Host{
		Root: t.TempDir(), Now: func() time.Time { return now },
		Run:          func(context.Context, string, ...string) (string, error) { return w.rules, nil },
		Date:         func(context.Context, string) (time.Time, error) { return now, nil },
		Pidfd:        func() error { return nil },
		Nftables:     func() error { return nil },
		Synchronised: func() (bool, error) { return true, nil },
		Exposed:      func(string) bool { return false },
	}
	w.self = map[string]any{
		"config": map[string]any{"Version": map[string]any{"Version": "1.11.3"}},
		"stats":  map[string]any{"client": map[string]any{"node_id": "n1"}},
	}
	w.node = &api.Node{
		ID: "n1", Status: "ready", SchedulingEligibility: "eligible",
		Drivers:       map[string]*api.DriverInfo{"runc": {Detected: true, Healthy: true}},
		NodeResources: &api.NodeResources{Devices: []*api.NodeDeviceResource{{Vendor: "nvidia", Instances: []*api.NodeDevice{{Healthy: true}, {Healthy: true}}}}},
	}
	w.agent = w.answer
	for name, text := range map[string]string{
		"/etc/os-release": "PRETTY_NAME=\"Testix 1\"\n", "/proc/sys/kernel/osrelease": "6.12.1\n", "/proc/meminfo": "MemTotal:       1048576 kB\n",
		"/proc/sys/user/max_pid_namespaces": "1000\n", "/proc/sys/kernel/seccomp/actions_avail": "kill errno allow\n",
		"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n",
		"/etc/nomad.d/nomad.hcl":            config, "/etc/systemd/system/nomad.service": "[Service]\nKillMode=process\n",
		"/proc/sys/net/netfilter/nf_conntrack_max": "1000\n", "/proc/sys/net/netfilter/nf_conntrack_count": "7\n", "/proc/sys/net/ipv4/ip_forward": "1\n",
		"/proc/77/comm": "nomad\n", "/proc/77/cmdline": "/usr/bin/nomad\x00agent\x00-config\x00/etc/nomad.d\x00",
		"/proc/77/status": "Name:\tnomad\nUid:\t0\t0\t0\t0\nCapBnd:\t" + allCaps + "\n", "/proc/77/cgroup": "0::/system.slice/nomad.service\n",
		"/proc/net/tcp": "  sl  local_address\n", "/opt/nomad/alloc/x": "",
		"/proc/net/tcp6": "  sl\n   0: 0000:1226 0:0 0A 0:0 0:0 0 0 0 4711 1\n", // 4646
	} {
		w.write(name, text)
	}
	for _, program := range []string{"/usr/bin/iptables", "/opt/nomad/plugins/pangaea-driver", "/opt/nomad/plugins/pangaea-device"} {
		w.write(program, "")
	}
	for _, plugin := range []string{"bridge", "firewall", "host-local", "loopback", "portmap"} {
		w.write("/usr/lib/cni/"+plugin, "")
	}
	w.link("/proc/77/fd/9", "socket:[4711]")
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	must.NoError(w.t, os.MkdirAll(filepath.Dir(w.host.path(name)), 0o755))
	must.NoError(w.t, os.WriteFile(w.host.path(name), []byte(text), 0o755))
}

func (w *world) remove(name string) { must.NoError(w.t, os.RemoveAll(w.host.path(name))) }

func (w *world) link(name, target string) {
	w.t.Helper()
	must.NoError(w.t, os.MkdirAll(filepath.Dir(w.host.path(name)), 0o755))
	must.NoError(w.t, os.Symlink(target, w.host.path(name)))
}

func (w *world) answer(rw http.ResponseWriter, r *http.Request) {
	answers := map[string]any{"/v1/agent/self": w.self, "/v1/node/n1": w.node, "/v1/status/leader": "10.0.0.1:4647"}
	answer, ok := answers[r.URL.Path]
	if !ok {
		http.NotFound(rw, r)
		return
	}
	must.NoError(w.t, json.NewEncoder(rw).Encode(answer))
}

// examine runs all checks.
func (w *world) examine() []Finding {
	w.t.Helper()
	for _, variable := range []string{"NOMAD_ADDR", "NOMAD_TOKEN"} {
		w.t.Setenv(variable, "")
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.agent(rw, r) }))
	defer server.Close()
	n := w.host.findNomad(w.config)
	must.NoError(w.t, n.connect(w.t.Context(), options{address: server.URL, consul: w.consul}))
	return Examine(w.t.Context(), w.host, n, w.runc, w.gpus)
}

// fakePlugin takes one option, depth.
type fakePlugin struct {
	name  string
	depth int
}

func (p *fakePlugin) PluginInfo() (*base.PluginInfoResponse, error) {
	return nil, errors.New("nobody asks")
}

func (p *fakePlugin) ConfigSchema() (*hclspec.Spec, error) {
	return hclspec.NewObject(map[string]*hclspec.Spec{"depth": hclspec.NewAttr("depth", "number", false)}), nil
}

func (p *fakePlugin) SetConfig(c *base.Config) error {
	var config struct {
		Depth int `codec:"depth"`
	}
	err := base.MsgPackDecode(c.PluginConfig, &config)
	p.depth = config.Depth
	return err
}

func (p *fakePlugin) Inspect(context.Context) []Finding {
	return []Finding{area(p.name).ok("depth", "%d", p.depth)}
}
