package driver

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

func TestRootGroupNetwork(t *testing.T) {
	if gvisor() {
		t.Skip("gVisor has a network stack of its own: TestRootOwnStack")
	}
	w := newWorld(t, func(c *Config) { c.AllowHostNetwork = true })
	name := fmt.Sprintf("pgt%d", os.Getpid())
	ip := func(args ...string) {
		out, err := exec.Command("ip", args...).CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "del", name) })
	ip("-n", name, "link", "add", "inside0", "type", "veth", "peer", "name", "inside1")
	ip("-n", name, "addr", "add", "172.26.64.5/20", "dev", "inside0")
	ip("-n", name, "link", "set", "lo", "up")

	group := func(c *drivers.TaskConfig) {
		c.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/" + name}
		c.DNS = &drivers.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"pool.example"}}
		c.Resources.Ports = &structs.AllocatedPorts{{Label: "http", Value: 2000, To: 80}}
	}
	job := sh(`ls /sys/class/net; grep web /etc/hosts; grep 192 /etc/resolv.conf; touch /sys/x || echo read-only
		touch /etc/hosts || echo read-only; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/tcp_fin_timeout`)
	job.Sysctl, job.Ports = map[string]string{"net.ipv4.tcp_fin_timeout": "23"}, []string{"http"}
	cfg := w.task(t, job)
	group(cfg)
	w.start(t, cfg)
	w.wait(t, cfg.ID)
	w.says(t, cfg, "inside0\ninside1\nlo\n172.26.64.5 web-"+cfg.AllocID[:8]+"\nnameserver 192.0.2.53\nread-only\nread-only\n0\n23\n")

	host, err := os.ReadDir("/sys/class/net")
	must.NoError(t, err)
	var names []string
	for _, e := range host {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	must.SliceNotContains(t, names, "inside0")
	w.run(t, JobConfig{Command: "/bin/sh", Args: []string{"-c", "ls /sys/class/net | grep -c lo"}, NetworkMode: "host"}, nil, fmt.Sprintf("%d\n", strings.Count(strings.Join(names, "\n"), "lo")))
}

func TestRootHostsNamespaceIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	cfg := w.prepare(t, sh("true"), false)
	cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: fmt.Sprintf("/proc/%d/ns/net", os.Getpid())}
	_, _, err := w.harness.StartTask(cfg)
	must.ErrorContains(t, err, "its namespace is the host's")
}

func TestHostsFile(t *testing.T) {
	text, err := hostsFile([]string{"six:[2001:db8::1]"}, "127.0.1.1 me")
	must.NoError(t, err)
	must.Eq(t, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 me\n2001:db8::1 six\n", text)
	for _, bad := range []string{"a", "a:b", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4 b", "-a:1.2.3.4", "a:fe80::1%\n6.6.6.6 registry", "a:fe80::1%eth0"} {
		_, err := hostsFile([]string{bad}, "127.0.1.1 me")
		must.Error(t, err, must.Sprint(bad))
	}
}

func TestHostName(t *testing.T) {
	cases := []struct{ asked, task, alloc, want string }{
		{"", "Web_Server", "0123456789", "web-server-01234567"},
		{"", "___", "0123456789", "01234567"},
		{"box.example", "x", "y", "box.example"},
		{"a b", "x", "y", ""},
		{"-a", "x", "y", ""},
		{strings.Repeat("a", 64), "x", "y", ""},
	}
	for _, c := range cases {
		got, err := hostName(&drivers.TaskConfig{Name: c.task, AllocID: c.alloc}, &JobConfig{Hostname: c.asked})
		must.Eq(t, c.want, got)
		must.Eq(t, c.want == "", err != nil)
	}
}

func TestNameServers(t *testing.T) {
	operator := Config{}
	operator.DNS.Servers, operator.DNS.Searches = []string{"192.0.2.1"}, []string{"operator.example"}
	group := &drivers.DNSConfig{Servers: []string{"192.0.2.2"}}
	cases := []struct {
		name     string
		operator Config
		group    *drivers.DNSConfig
		job      JobConfig
		want     drivers.DNSConfig
	}{
		{"nobody says anything", Config{}, nil, JobConfig{}, drivers.DNSConfig{}},
		{"the operator's", operator, nil, JobConfig{}, drivers.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"operator.example"}}},
		{"an option and the operator's servers", operator, nil, JobConfig{DNSOptions: []string{"ndots:1"}}, drivers.DNSConfig{
			Servers: []string{"192.0.2.1"}, Searches: []string{"operator.example"}, Options: []string{"ndots:1"},
		}},
		{"a search domain and the group's servers", operator, group, JobConfig{DNSSearches: []string{"job.example"}}, drivers.DNSConfig{
			Servers: []string{"192.0.2.2"}, Searches: []string{"job.example"},
		}},
		{"the job's servers", operator, group, JobConfig{DNSServers: []string{"192.0.2.3"}}, drivers.DNSConfig{
			Servers: []string{"192.0.2.3"}, Searches: []string{"operator.example"},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			must.Eq(t, c.want, *nameServers(&drivers.TaskConfig{DNS: c.group}, &c.job, newSettings(c.operator)))
		})
	}
}
