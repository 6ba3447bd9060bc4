package driver

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

func TestRootGroupNetwork(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowHostNetwork = true })
	name := fmt.Sprintf("pgt%d", os.Getpid())
	ip := func(args ...string) {
		out, err := exec.Command("ip", args...).CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "del", name) })
	ip("-n", name, "link", "add", "inside0", "type", "veth", "peer", "name", "inside1")

	group := func(c *drivers.TaskConfig) {
		c.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/" + name}
		c.Env["NOMAD_ALLOC_IP_web"] = "172.26.64.5"
		c.DNS = &drivers.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"pool.example"}}
	}
	job := sh("ls /sys/class/net; grep 172 /etc/hosts | cut -d' ' -f1 2>/dev/null || grep -c 172.26.64.5 /etc/hosts; grep 192 /etc/resolv.conf; touch /sys/x || echo read-only; touch /etc/hosts || echo read-only")
	_, out := w.run(t, job, group)
	must.StrContains(t, out, "inside0\ninside1\nlo\n")
	must.StrContains(t, out, "nameserver 192.0.2.53\n")
	must.Eq(t, 2, strings.Count(out, "read-only"))

	_, out = w.run(t, JobConfig{Command: "/bin/ls", Args: []string{"/sys/class/net"}, NetworkMode: "host"}, nil)
	must.StrNotContains(t, out, "inside0")
	host, err := os.ReadDir("/sys/class/net")
	must.NoError(t, err)
	must.Eq(t, len(host), strings.Count(out, "\n"))
}

func TestHostsFile(t *testing.T) {
	cfg := &drivers.TaskConfig{Env: map[string]string{"NOMAD_ALLOC_IP_web": "6.6.6.6\n7.7.7.7 evil"}, NetworkIsolation: &drivers.NetworkIsolationSpec{}}
	text, err := hostsFile(cfg, []string{"six:[2001:db8::1]"}, "me")
	must.NoError(t, err)
	must.Eq(t, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 me\n2001:db8::1 six\n", text)
	for _, bad := range []string{"a", "a:b", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4 b", "-a:1.2.3.4"} {
		_, err := hostsFile(cfg, []string{bad}, "me")
		must.Error(t, err, must.Sprint(bad))
	}
}

func TestHostName(t *testing.T) {
	cases := []struct{ asked, task, alloc, want string }{
		{"", "Web_Server", "0123456789", "web-server-01234567"},
		{"", "___", "0123456789", "01234567"},
		{"box.example", "x", "y", "box.example"},
		{"a b", "x", "y", ""}, {"-a", "x", "y", ""}, {strings.Repeat("a", 64), "x", "y", ""},
	}
	for _, c := range cases {
		got, err := hostName(&drivers.TaskConfig{Name: c.task, AllocID: c.alloc}, &JobConfig{Hostname: c.asked})
		must.Eq(t, c.want, got)
		must.Eq(t, c.want == "", err != nil)
	}
}
