package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func find(t *testing.T, all []Finding, area, name string) Finding {
	t.Helper()
	for _, f := range all {
		if f.Area == area && f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %s/%s in %v", area, name, all)
	return Finding{}
}

func TestAllIsWell(t *testing.T) {
	w := newWorld(t)
	all := w.examine()
	for _, f := range all {
		must.Eq(t, verdictOK, f.Verdict, must.Sprint(f))
		must.Eq(t, "", f.Fix)
	}
	must.Eq(t, 0, status(all))
	must.Eq(t, "3", find(t, all, "driver runc", "depth").Seen, must.Sprint("the plugin is configured as Nomad would"))
	must.Eq(t, "nomad (process 77) listens (Nomad's HTTP, or a gateway's)", find(t, all, "ports", "4646").Seen)
	must.Eq(t, "2, as Nomad sees it", find(t, all, "nomad", "GPUs").Seen)
	must.StrContains(t, find(t, all, "host", "size").Seen, "1.0 GiB of memory")
}

// Each case breaks one thing, and names the line that must say so.
func TestFindings(t *testing.T) {
	const plugins = "/opt/nomad/plugins/"
	cases := []struct {
		name          string
		change        func(*world)
		area, finding string
		verdict       string
		seen, fix     string
	}{
		{"no namespaces of a kind", func(w *world) { w.write("/proc/sys/user/max_net_namespaces", "0") }, "kernel", "namespaces", verdictFail, "max_net_namespaces is 0", "sysctl -w user.max_net_namespaces"},
		{"user namespaces for root only", func(w *world) { w.write("/proc/sys/kernel/unprivileged_userns_clone", "0") }, "kernel", "namespaces", verdictOK, "not from the driver", ""},
		{"no pidfd", func(w *world) { w.host.Pidfd = func() error { return unix.ENOSYS } }, "kernel", "pidfd", verdictFail, "not implemented", "5.3"},
		{"no seccomp", func(w *world) { w.remove("/proc/sys/kernel/seccomp") }, "kernel", "seccomp", verdictFail, "filters no system calls", "CONFIG_SECCOMP_FILTER"},
		{"SELinux", func(w *world) { w.write("/sys/fs/selinux/enforce", "1") }, "kernel", "security modules", verdictWarn, "SELinux enforces", "ausearch"},
		{"AppArmor", func(w *world) { w.write("/sys/module/apparmor/parameters/enabled", "Y\n") }, "kernel", "security modules", verdictOK, "AppArmor is on", ""},

		{"v2 without pids", func(w *world) { w.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory") }, "cgroups", "controllers", verdictFail, "pids is missing", "command line"},
		{"v1 without devices", func(w *world) {
			w.remove("/sys/fs/cgroup/cgroup.controllers")
			for _, c := range []string{"cpu", "cpuset", "memory", "pids", "freezer"} {
				w.write("/sys/fs/cgroup/"+c+"/tasks", "")
			}
		}, "cgroups", "controllers", verdictFail, "devices is missing", "command line"},
		{"hybrid", func(w *world) {
			w.remove("/sys/fs/cgroup/cgroup.controllers")
			for _, c := range []string{"cpu", "cpuset", "memory", "pids", "freezer", "devices", "unified/cgroup.controllers"} {
				w.write("/sys/fs/cgroup/"+c+"/tasks", "")
			}
		}, "cgroups", "version", verdictOK, "hybrid", ""},
		{"no cgroups", func(w *world) { w.remove("/sys/fs/cgroup") }, "cgroups", "controllers", verdictFail, "no cgroup file system", "mount -t cgroup2"},

		{"no agent", func(w *world) { w.agent = nil; w.remove("/proc/77") }, "nomad", "agent", verdictFail, "no Nomad agent runs here", "systemctl start nomad"},
		{"agent elsewhere", func(w *world) { w.agent = nil }, "nomad", "agent", verdictFail, "process 77 runs, but", "-address"},
		{"no token", func(w *world) {
			w.agent = func(rw http.ResponseWriter, _ *http.Request) {
				http.Error(rw, "Permission denied", http.StatusForbidden)
			}
		}, "nomad", "agent", verdictWarn, "not to this token", "NOMAD_TOKEN"},
		{"old Nomad", func(w *world) { w.self["config"] = map[string]any{"Version": map[string]any{"Version": "1.6.5"}} }, "nomad", "agent", verdictFail, "version 1.6.5", "upgrade"},
		{"a server's agent", func(w *world) { w.self["stats"] = map[string]any{} }, "nomad", "client", verdictWarn, "is no client", "-address"},
		{"a drained node", func(w *world) { w.node.SchedulingEligibility = "ineligible" }, "nomad", "node", verdictWarn, "ready and ineligible", "eligibility -enable"},
		{"driver not loaded", func(w *world) { w.node.Drivers = nil }, "nomad", "driver runc", verdictFail, "not known to Nomad", "plugin_dir"},
		{"driver unhealthy", func(w *world) {
			w.node.Drivers["runc"].Healthy, w.node.Drivers["runc"].HealthDescription = false, "too old"
		}, "nomad", "driver runc", verdictFail, "too old", "below"},
		{"a sick GPU", func(w *world) { w.node.NodeResources.Devices[0].Instances[1].Healthy = false }, "nomad", "GPUs", verdictWarn, "1 of 2 healthy", "node status -self -verbose"},
		{"several agents", func(w *world) {
			w.write("/proc/99/comm", "nomad")
			w.write("/proc/99/cmdline", "nomad\x00agent\x00-dev\x00")
		}, "nomad", "process", verdictWarn, "process 77", "-config"},
		{"agent without root", func(w *world) { w.write("/proc/77/status", "Name:\tnomad\nUid:\t1000\t1000\nCapBnd:\t"+allCaps+"\n") }, "nomad", "rights", verdictFail, "process 77) is not root", "User=root"},
		{"agent in a container", func(w *world) { w.write("/proc/77/status", "Name:\tnomad\nUid:\t0\t0\nCapBnd:\t00000000a80425fb\n") }, "nomad", "rights", verdictFail, "CAP_SYS_ADMIN", "CapabilityBoundingSet"},
		{"agent without CAP_SYS_RESOURCE", func(w *world) { w.write("/proc/77/status", "Name:\tnomad\nUid:\t0\t0\nCapBnd:\t000001fffeffffff\n") }, "nomad", "rights", verdictWarn, "lacks CAP_SYS_RESOURCE", "all capabilities"},

		{"no configuration", func(w *world) { w.remove("/etc/nomad.d"); w.remove("/proc/77") }, "nomad", "configuration", verdictWarn, "none found", "-config"},
		{"broken configuration", func(w *world) { w.write("/etc/nomad.d/nomad.hcl", "data_dir = \"/x") }, "nomad", "configuration", verdictWarn, "cannot understand Nomad's configuration", "correct it"},
		{"dangling link", func(w *world) { w.link(plugins+"old", "/gone/old") }, "nomad", "plugin_dir", verdictFail, plugins + "old is a dangling link: Nomad's agent does not start", "rm " + plugins + "old"},
		{"not executable", func(w *world) { must.NoError(w.t, os.Chmod(w.host.path(plugins+driverName), 0o644)) }, "nomad", "plugin_dir", verdictWarn, "not executable", "chmod +x"},
		{"driver not installed", func(w *world) { w.remove(plugins + driverName) }, "nomad", driverName, verdictFail, "not in /opt/nomad/plugins", "ln -s"},
		{"no plugin_dir", func(w *world) { w.remove(plugins) }, "nomad", deviceName, verdictFail, "not in /opt/nomad/plugins", "ln -s"},
		{"plugin_dir is a file", func(w *world) { w.remove(plugins); w.write("/opt/nomad/plugins", "") }, "nomad", "plugin_dir", verdictFail, "agent does not start", "directory"},
		{"no plugin block", func(w *world) {
			w.write("/etc/nomad.d/nomad.hcl", strings.Replace(config, "pangaea-device", "other", 1))
		}, "nomad", deviceName, verdictFail, "loads no plugin without a block", `plugin "pangaea-device"`},
		{"both device plugins", func(w *world) {
			w.write(plugins+peerName, "")
			w.write("/etc/nomad.d/gpu.hcl", `plugin "nomad-device-nvidia" { config { enabled = true } }`)
		}, "nomad", peerName, verdictFail, "the same GPUs", "take one of them out"},
		{"unknown option", func(w *world) {
			w.write("/etc/nomad.d/z.hcl", `plugin "pangaea-driver" { config { dept = 4 } }`)
		}, "driver runc", "configuration", verdictFail, "Nomad's agent does not start", "correct the plugin's block"},
		{"open data_dir", func(w *world) {
			w.host.Exposed = func(dir string) bool { return strings.HasSuffix(dir, "/opt/nomad/alloc") }
		}, "nomad", "data_dir", verdictFail, "other users of this host reach", "chmod 0700 /opt/nomad"},
		{"systemd kills tasks", func(w *world) { w.write("/etc/systemd/system/nomad.service", "[Service]\nRestart=always\n") }, "nomad", "unit", verdictFail, "KillMode=control-group: tasks die", "KillMode=process"},
		{"a drop-in changes it back", func(w *world) { w.write("/etc/systemd/system/nomad.service.d/x.conf", "[Service]\nKillMode=mixed") }, "nomad", "unit", verdictFail, "KillMode=mixed", "systemctl edit nomad.service"},
		{"unit of another name", func(w *world) {
			w.write("/proc/77/cgroup", "1:name=systemd:/system.slice/gpu-nomad.service\n")
			w.write("/usr/lib/systemd/system/gpu-nomad.service", "[Service]\n")
		}, "nomad", "unit", verdictFail, "gpu-nomad.service has KillMode", "systemctl edit gpu-nomad.service"},
		{"no unit", func(w *world) { w.remove("/etc/systemd") }, "nomad", "unit", verdictOK, "no nomad.service", ""},

		{"no CNI plugins", func(w *world) { w.remove("/usr/lib/cni") }, "network", "CNI plugins", verdictFail, "no bridge, firewall", "containernetworking-plugins"},
		{"CNI plugins elsewhere", func(w *world) {
			w.write("/etc/nomad.d/nomad.hcl", strings.Replace(config, "/usr/lib/cni", "/opt/cni/bin", 1))
		}, "network", "CNI plugins", verdictFail, "in /opt/cni/bin", `cni_path = "/usr/lib/cni"`},
		{"no iptables", func(w *world) { w.remove("/usr/bin/iptables") }, "network", "iptables", verdictFail, "not installed", "apt-get install iptables"},
		{"Docker's FORWARD", func(w *world) { w.rules = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n" }, "network", "iptables", verdictWarn, "as Docker sets it", "DOCKER-USER"},
		{"Docker's FORWARD with CNI's", func(w *world) { w.rules = "-P FORWARD DROP\n-A FORWARD -m comment -j CNI-FORWARD\n" }, "network", "iptables", verdictOK, "exception for CNI", ""},
		{"no nftables", func(w *world) { w.host.Nftables = func() error { return unix.EPROTONOSUPPORT } }, "network", "nftables", verdictFail, "no egress policy", "modprobe nf_tables"},
		{"no conntrack", func(w *world) { w.remove("/proc/sys/net/netfilter") }, "network", "connection tracking", verdictWarn, "not loaded", "modprobe nf_conntrack"},
		{"conntrack nearly full", func(w *world) { w.write("/proc/sys/net/netfilter/nf_conntrack_count", "900") }, "network", "connection tracking", verdictWarn, "900 of at most 1000", "nf_conntrack_max=2000"},
		{"no forwarding", func(w *world) { w.write("/proc/sys/net/ipv4/ip_forward", "0") }, "network", "forwarding", verdictWarn, "off", "sysctl --system"},

		{"port taken", func(w *world) { w.write("/proc/77/comm", "nginx") }, "ports", "4646", verdictFail, "taken from Nomad's HTTP, or a gateway's by nginx (process 77)", "stop process 77"},
		{"port of an unseen process", func(w *world) { w.remove("/proc/77/fd") }, "ports", "4646", verdictWarn, "not seen from here", "ss -ltnp"},

		{"nothing keeps the clock", func(w *world) { w.host.Synchronised = func() (bool, error) { return false, nil } }, "clock", "synchronised", verdictWarn, "nothing keeps", "set-ntp"},
		{"clock off", func(w *world) { w.clock("10.0.0.1", 5*time.Second) }, "clock", "Nomad's server", verdictWarn, "5s apart", "chrony"},
		{"clock wrong", func(w *world) { w.clock("10.0.0.1", -time.Hour) }, "clock", "Nomad's server", verdictFail, "1h0m0s apart", "chrony"},
		{"clock wrong to the pool", func(w *world) { w.consul = "http://consul"; w.clock("consul", time.Minute) }, "clock", "Consul", verdictFail, "1m0s apart", "chrony"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			if w.agent == nil {
				w.agent = func(rw http.ResponseWriter, _ *http.Request) {
					conn, _, err := http.NewResponseController(rw).Hijack()
					must.NoError(t, err)
					_ = conn.Close()
				}
			}
			f := find(t, w.examine(), c.area, c.finding)
			must.Eq(t, c.verdict, f.Verdict, must.Sprint(f))
			must.StrContains(t, f.Seen, c.seen)
			must.StrContains(t, f.Fix, c.fix)
			must.Eq(t, c.verdict == verdictOK, f.Fix == "", must.Sprint("what is not ok has a fix"))
		})
	}
}

// clock sets one server's clock apart.
func (w *world) clock(server string, apart time.Duration) {
	w.host.Date = func(_ context.Context, url string) (time.Time, error) {
		if strings.Contains(url, "//"+server) {
			return w.host.Now().Add(apart), nil
		}
		return w.host.Now(), nil
	}
}

// Without root nothing that could not be seen is called good.
func TestNotRoot(t *testing.T) {
	w := newWorld(t)
	w.host.UID = 1000
	w.host.Nftables = func() error { return unix.EPERM }
	w.remove("/proc/77/fd")
	w.remove("/proc/77/status")
	all := w.examine()
	for _, name := range [][2]string{{"network", "iptables"}, {"network", "nftables"}, {"ports", "4646"}, {"nomad", "rights"}} {
		f := find(t, all, name[0], name[1])
		must.Eq(t, verdictWarn, f.Verdict, must.Sprint(f))
		must.Eq(t, asRoot, f.Fix)
	}
}

func TestConfigArguments(t *testing.T) {
	w := newWorld(t)
	w.write("/srv/a.hcl", `data_dir = "/a"`)
	w.write("/srv/b.json", `{"data_dir": "/b", "client": {"cni_path": "/cni"}}`)
	w.write("/proc/77/cmdline", "nomad\x00agent\x00-config=a.hcl\x00--config\x00/srv/b.json\x00")
	w.link("/proc/77/cwd", "/srv")
	n := w.host.findNomad(nil)
	must.NoError(t, n.err)
	must.Eq(t, []string{"/srv/a.hcl", "/srv/b.json"}, n.files)
	must.Eq(t, "/b", n.conf.dataDir)
	must.Eq(t, "/b/plugins", n.conf.pluginDir)
	must.Eq(t, "/cni", n.conf.cniPath)
}

func TestReport(t *testing.T) {
	findings := []Finding{area("a").ok("x", "fine"), area("a").warn("y", "do\x1b[2Jthis", "so so"), area("b").fail("z", "mend it", "bad")}
	var text, raw bytes.Buffer
	must.NoError(t, writeText(&text, findings))
	must.Eq(t, `a
  ok    x                    fine
  warn  y                    so so
                             fix: do [2Jthis

b
  fail  z                    bad
                             fix: mend it

1 fail, 1 warn, 1 ok
`, text.String())
	must.NoError(t, writeJSON(&raw, findings))
	var back []Finding
	must.NoError(t, json.Unmarshal(raw.Bytes(), &back))
	must.Eq(t, findings, back)
	must.Eq(t, 1, status(findings))
	must.Eq(t, 0, status(findings[:2]))
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args     []string
		status   int
		out, err string
	}{
		{[]string{"-h"}, 0, "Usage: pangaea doctor", ""},
		{[]string{"-nonsense"}, 2, "", "not defined"},
		{[]string{"gpu"}, 2, "", `no argument "gpu"`},
		{[]string{"-token-file", "/nonexistent"}, 2, "", "cannot read Nomad's token"},
	} {
		var out, err bytes.Buffer
		must.Eq(t, c.status, Command(c.args, &out, &err, &fakePlugin{}), must.Sprint(c.args))
		must.StrContains(t, out.String(), c.out)
		must.StrContains(t, err.String(), c.err)
		must.Eq(t, c.status == 0, err.Len() == 0)
	}
}

// The doctor on this very machine, with nothing stood in for.
func TestRootHere(t *testing.T) {
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	var out, errs bytes.Buffer
	code := Command([]string{"-json", "-config", filepath.Join(t.TempDir(), "none.hcl")}, &out, &errs, &fakePlugin{name: "device nvidia/gpu"})
	var all []Finding
	must.NoError(t, json.Unmarshal(out.Bytes(), &all), must.Sprint(errs.String()))
	must.Eq(t, status(all), code)
	for _, name := range [][2]string{{"kernel", "namespaces"}, {"kernel", "pidfd"}, {"kernel", "seccomp"}, {"cgroups", "controllers"}, {"network", "nftables"}, {"driver runc", "id-mapped mounts"}} {
		f := find(t, all, name[0], name[1])
		must.Eq(t, verdictOK, f.Verdict, must.Sprint(f))
	}
	must.Eq(t, verdictFail, find(t, all, "nomad", "agent").Verdict)
}
