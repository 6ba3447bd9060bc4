package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/egress"
	"pangaea/driver/thread"
)

func TestEgressOptions(t *testing.T) {
	cases := []struct {
		name, problem string
		config        Config
	}{
		{"none", "", Config{}},
		{"all", "", Config{Egress: Egress{Subnet: "10.9.0.0/16", Deny: []string{"8.8.8.0/24"}, MaxConnections: 10, ConnectionRate: 1}, AllowEgress: []string{"10.0.5.7:443", "10.1.0.0/16"}}},
		{"exception with a bad port", "allow_egress", Config{AllowEgress: []string{"10.0.5.7:0"}}},
		{"exception with a name", "allow_egress", Config{AllowEgress: []string{"nas:443"}}},
		{"exception of IPv6", "only IPv4", Config{AllowEgress: []string{"fd00::1"}}},
		{"range that starts elsewhere", "starts at 10.0.5.0", Config{Egress: Egress{Deny: []string{"10.0.5.7/24"}}}},
		{"public subnet", "public internet", Config{Egress: Egress{Subnet: "8.8.0.0/16"}}},
		{"loopback subnet", "no task can use", Config{Egress: Egress{Subnet: "127.0.0.0/16"}}},
		{"small subnet", "too few tasks", Config{Egress: Egress{Subnet: "10.0.0.0/30"}}},
		{"large subnet", "too large", Config{Egress: Egress{Subnet: "0.0.0.0/0"}}},
		{"negative cap", "max_connections", Config{Egress: Egress{MaxConnections: -1}}},
		{"policed namespaces", "", Config{Egress: Egress{PoliceNamespaces: []string{"pool-*"}}}},
		{"a bad pattern of namespaces", "is no pattern", Config{Egress: Egress{PoliceNamespaces: []string{"[pool"}}}},
		{"policed namespaces without egress", "nothing is policed", Config{Egress: Egress{Disabled: true, PoliceNamespaces: []string{"*"}}}},
		{"huge rate", "connection_rate", Config{Egress: Egress{ConnectionRate: 1 << 30}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSettings(c.config)
			must.Eq(t, c.problem != "", len(s.problems) > 0, must.Sprint(s.problems))
			must.StrContains(t, strings.Join(s.problems, " "), c.problem)
		})
	}
}

func TestRefuseGroupNetworks(t *testing.T) {
	group := &drivers.TaskConfig{NetworkIsolation: &drivers.NetworkIsolationSpec{Path: "/run/netns/x"}}
	cases := []struct {
		name    string
		cfg     *drivers.TaskConfig
		mode    string
		refuse  bool
		refused bool
	}{
		{"allowed by default", group, "", false, false},
		{"refused", group, "", true, true},
		{"a task that does not join it", group, "none", true, false},
		{"no group network", &drivers.TaskConfig{}, "", true, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := permitNetwork(c.cfg, &JobConfig{NetworkMode: c.mode}, newSettings(Config{RefuseGroupNetworks: c.refuse}))
			must.Eq(t, c.refused, err != nil, must.Sprint(err))
		})
	}
}

// onHost runs the calling test again in a network namespace of its own, which is then the host's, and its body there.
func onHost(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(hostTest) == t.Name() {
		body(t)
		return
	}
	out, err := again(t, t.Name(), syscall.CLONE_NEWNET).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
}

// again is this program once more, for one test.
func again(t *testing.T, test string, namespaces uintptr, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v", "-test.timeout=14m")
	cmd.Env = append(append(os.Environ(), hostTest+"="+test, hostBuilt+"="+built), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	return cmd
}

// internet puts a network behind the host's: a router of the LAN with whatever else lies behind it.
func internet(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("pgi%d", os.Getpid())
	ip := func(words string) {
		out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput()
		must.NoError(t, err, must.Sprint(words, string(out)))
	}
	ip("link set lo up")
	ip("netns add " + name)
	t.Cleanup(func() { ip("netns del " + name) })
	ip("link add eth0 mtu 1400 type veth peer name lan0 netns " + name)
	ip("addr add 192.168.1.2/24 dev eth0")
	ip("link set eth0 up")
	ip("-n " + name + " link set lo up")
	ip("-n " + name + " link set lan0 up")
	for _, a := range []string{"192.168.1.1/24", "192.168.1.53/24", "8.8.8.8/32", "169.254.169.254/32"} {
		ip("-n " + name + " addr add " + a + " dev lan0")
	}
	ip("route add default via 192.168.1.1")
	greet(t, name)
}

// greet answers on port 8080 of all addresses of a network namespace.
func greet(t *testing.T, name string) {
	t.Helper()
	var listener net.Listener
	var err error
	thread.Throwaway(func() {
		err = egress.Enter("/run/netns/" + name)
		if err == nil {
			listener, err = net.Listen("tcp4", "0.0.0.0:8080")
		}
	})
	must.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "hello from", conn.LocalAddr())
			conn.Close()
		}
	}()
}

func online(c *Config) {
	c.Egress.Disabled = false
	c.DNS.Servers = []string{"192.168.1.53"}
}

// fetch greets addresses, all at once, and tells of them in order. It waits long for those that are to answer, and five
// seconds for others: the walls' refusals do not reach gVisor's own stack, whose tasks wait in vain.
func fetch(answering ...string) string {
	return "fetch() { for a; do case ' " + strings.Join(answering, " ") + " ' in *\" $a \"*) w=60;; *) w=5;; esac; " +
		"{ /bin/busybox nc -w $w $a 8080 </dev/null 2>/dev/null || echo no $a; } >/tmp/$a & done; wait; for a; do cat /tmp/$a; done; }; "
}

// listInterfaces names the task's network interfaces. gVisor's sysfs has none.
func listInterfaces() string {
	return byKernel("ls /sys/class/net", "ip -o link | while read number name rest; do echo ${name%:}; done")
}

func TestRootUplink(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := newWorld(t, func(c *Config) { online(c); c.AllowSysctls = []string{"net.ipv4.tcp_max_syn_backlog"} })
		cases := []struct {
			name string
			job  JobConfig
			out  string
		}{
			{"the internet and nothing near", sh(fetch("8.8.8.8") + "fetch 8.8.8.8 192.168.1.1 192.168.1.2 169.254.169.254"), "hello from 8.8.8.8:8080\nno 192.168.1.1\nno 192.168.1.2\nno 169.254.169.254\n"},
			{
				"interfaces", sh(listInterfaces() + "; touch /sys/x || echo read-only; ip -6 addr show eth0; " + byKernel("cat /sys/class/net/eth0/mtu", "ip -o link show eth0 | grep -o 'mtu [0-9]*'")),
				byKernel("eth0\nlo\nread-only\n1400\n", "lo\neth0\nread-only\nmtu 1400\n"),
			},
			{"its own address has its name", sh(`set -- $(grep web- /etc/hosts); ip addr | grep -c "inet $1/"; test $2 = $(hostname) && echo named`), "1\nnamed\n"},
			{"name servers", sh("grep nameserver /etc/resolv.conf"), "nameserver 192.168.1.53\n"},
			{"an option changes no server", JobConfig{Command: "/bin/cat", Args: []string{"/etc/resolv.conf"}, DNSOptions: []string{"ndots:1"}, DNSSearches: []string{"a.example"}}, "nameserver 192.168.1.53\nsearch a.example\noptions ndots:1\n"},
			{"ports without privilege", sh("nc -ll -p 80 -e /bin/echo answered & until nc 127.0.0.1 80 </dev/null 2>/dev/null; do sleep 0.1; done"), "answered\n"},
			{"no raw sockets", sh("/bin/busybox arping -c 1 192.168.1.1 2>&1 | grep -c -i permitted"), "1\n"},
			{"the walls stand", sh("ip link set eth0 down 2>/dev/null || echo no; ip route add 1.2.3.4 dev eth0 2>/dev/null || echo no"), "no\nno\n"},
			{"none", JobConfig{Command: "/bin/sh", Args: []string{"-c", fetch() + listInterfaces() + "; fetch 8.8.8.8"}, NetworkMode: "none"}, "lo\nno 8.8.8.8\n"},
			{"sysctl", JobConfig{Command: "/bin/cat", Args: []string{"/proc/sys/net/ipv4/tcp_max_syn_backlog"}, Sysctl: map[string]string{"net.ipv4.tcp_max_syn_backlog": "77"}}, "77\n"},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				if c.name == "sysctl" && w.refusedByGVisor(t, c.job, nil, "gVisor has kernel settings of its own") {
					return
				}
				w.run(t, c.job, nil, c.out)
			})
		}
		got := w.driver.addEgress(w.driver.settings().fingerprint(t.Context(), good()))
		kind, _ := got.Attributes["driver.runc.egress"].GetString()
		must.Eq(t, "internet", kind)
	})
}

// A host where no policed way out can be made gives no network at all, and says so.
func TestRootNoUplinkIsLoopbackOnly(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := newWorld(t, func(c *Config) { online(c); c.Egress.Subnet = "192.168.1.0/24" })
		w.run(t, sh(fetch()+listInterfaces()+"; fetch 8.8.8.8"), nil, "lo\nno 8.8.8.8\n")
		got := w.driver.addEgress(w.driver.settings().fingerprint(t.Context(), good()))
		kind, _ := got.Attributes["driver.runc.egress"].GetString()
		must.Eq(t, "none", kind)
		must.StrContains(t, got.HealthDescription, "set subnet")
	})
}

// interfaces are the host's ends of tasks' cables.
func interfaces(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	must.NoError(t, err)
	var names []string
	for _, l := range links {
		if strings.HasPrefix(l.Name, "pg") {
			names = append(names, l.Name)
		}
	}
	return names
}

func awaitInterfaces(t *testing.T, count int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if len(interfaces(t)) == count {
			return
		}
	}
	must.Len(t, count, interfaces(t))
}

// A task's network outlives the plugin, walls included, and ends with the task.
func TestRootUplinkOutlivesThePlugin(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := newWorld(t, online)
		cfg := w.task(t, sh(fetch("8.8.8.8")+"while ! test -e /local/go; do sleep 0.1; done; fetch 8.8.8.8 192.168.1.1"))
		handle := w.start(t, cfg)
		w.driver.Shutdown()
		awaitInterfaces(t, 1)
		w.restart(t)
		must.NoError(t, w.driver.RecoverTask(handle))
		must.NoError(t, os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "go"), nil, 0o600))
		w.wait(t, cfg.ID)
		w.says(t, cfg, "hello from 8.8.8.8:8080\nno 192.168.1.1\n")
		awaitInterfaces(t, 0)
	})
}

// TestRootKilledStart kills a plugin after each step of a start. Nothing of the task's network may be left once the
// next plugin has ended that start.
func TestRootKilledStart(t *testing.T) {
	onHost(t, func(t *testing.T) {
		internet(t)
		w := newWorld(t, online)
		for n, step := range steps() {
			t.Run(step.name, func(t *testing.T) {
				job := sh("sleep 1000")
				job.Image = w.registry + "/busybox:1"
				cfg := w.prepare(t, job, false)
				cfg.StdoutPath, cfg.StderrPath = os.DevNull, os.DevNull
				order, err := json.Marshal(victim{Config: w.config, Task: cfg, Job: job, Steps: n + 1})
				must.NoError(t, err)
				out, err := again(t, "TestVictim", 0, "PANGAEA_VICTIM="+string(order)).CombinedOutput()
				must.StrContains(t, fmt.Sprint(err), "killed", must.Sprint(string(out)))

				again := *cfg
				again.ID = cfg.AllocID + "/web/" + "ffffffff"
				s, done, err := w.driver.begin(&again)
				must.NoError(t, err)
				defer done()
				must.NoError(t, s.endEarlier())
				left, err := filepath.Glob(filepath.Join(w.state, "tasks", "*"))
				must.NoError(t, err)
				must.SliceEmpty(t, left)
				own := func(mount string) bool {
					return strings.Contains(mount, w.state) && !strings.Contains(mount, w.state+"/tmp/")
				}
				must.False(t, slices.ContainsFunc(w.mounts(), own), must.Sprint(w.mounts()))
				awaitInterfaces(t, 0)
			})
		}
	})
}

// victim is what a plugin that will be killed starts.
type victim struct {
	Config Config
	Task   *drivers.TaskConfig
	Job    JobConfig
	Steps  int
}

// TestVictim is a plugin that is killed in the middle of a start. It runs for TestRootKilledStart only.
func TestVictim(t *testing.T) {
	order := os.Getenv("PANGAEA_VICTIM")
	if order == "" {
		return
	}
	var v victim
	must.NoError(t, json.Unmarshal([]byte(order), &v))
	must.NoError(t, v.Task.EncodeConcreteDriverConfig(&v.Job))
	d := New(hclog.NewNullLogger())
	d.conf = newSettings(v.Config)
	s, _, err := d.begin(v.Task)
	must.NoError(t, err)
	for _, step := range steps()[:v.Steps] {
		must.NoError(t, step.run(s), must.Sprint(step.name))
	}
	must.NoError(t, unix.Kill(unix.Getpid(), unix.SIGKILL))
	<-context.Background().Done()
}

// A firewall of the host's that closes tasks' networks is told to the operator, the scheduler and the task's user, and
// passed where the operator wants that.
func TestRootUplinkBehindFirewall(t *testing.T) {
	for _, c := range []struct {
		name      string
		exception bool
		kind, out string
	}{
		{"told", false, "firewalled", "no 8.8.8.8\n"},
		{"passed", true, "internet", "hello from 8.8.8.8:8080\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onHost(t, func(t *testing.T) {
				internet(t)
				out, err := exec.Command("iptables", "-P", "FORWARD", "DROP").CombinedOutput()
				must.NoError(t, err, must.Sprint(string(out)))
				w := newWorld(t, func(cfg *Config) { online(cfg); cfg.AllowFirewallException = c.exception })
				found := w.driver.settings().inspectFirewall()
				must.Eq(t, map[bool]string{false: verdictWarn, true: verdictOK}[c.exception], found.Verdict)
				must.StrContains(t, found.Seen, "chain FORWARD of ip filter")
				got := w.driver.addEgress(w.driver.settings().fingerprint(t.Context(), good()))
				kind, _ := got.Attributes["driver.runc.egress"].GetString()
				must.Eq(t, c.kind, kind)
				must.Eq(t, !c.exception, strings.Contains(got.HealthDescription, "allow_firewall_exception"))

				events := w.events(t)
				answering := map[bool][]string{true: {"8.8.8.8"}}[c.exception]
				cfg := w.task(t, sh(fetch(answering...)+"fetch 8.8.8.8"))
				w.start(t, cfg)
				w.wait(t, cfg.ID)
				w.says(t, cfg, c.out)
				if !c.exception {
					events.await(t, cfg.ID, "firewall may keep the task from the internet: chain FORWARD of ip filter")
				}
			})
		})
	}
}
