package driver

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

func TestSpecsAreValid(t *testing.T) {
	_, diag := hclspecutils.Convert(configSpec())
	must.False(t, diag.HasErrors(), must.Sprint(diag))
	_, diag = hclspecutils.Convert(jobSpec())
	must.False(t, diag.HasErrors(), must.Sprint(diag))
}

func TestJobConfig(t *testing.T) {
	var job JobConfig
	hclutils.NewConfigParser(jobSpec()).ParseHCL(t, `config {
		image = "registry.example/app:1"
		image_pull_policy = "always"
		auth { username = "u" password = "p" }
		entrypoint = ["/init"]
		command = "run"
		args = ["a", "b"]
		work_dir = "/srv"
		hostname = "app"
		readonly_rootfs = true
		cap_add = ["chown"]
		pids_limit = 10
		ulimit { nofile = "1:2" }
		sysctl = { "kernel.shmmax" = "1" }
		labels { a = "b" }
		mount { target = "/scratch" size = "1MiB" }
		mount { type = "bind" source = "/a" target = "/b" readonly = true }
		volumes = ["/x:/y:ro"]
		lease { file = "lease" ttl = "30s" }
		extra_hosts = ["db:192.0.2.1"]
		group_add = ["video"]
		memory_swap = "1GiB"
		memory_swappiness = 0
		devices = [{ host_path = "/dev/fuse", container_path = "/dev/own", cgroup_permissions = "r" }]
		ports = ["http"]
		port_map { http = 80 }
		privileged = true
		init = true
		tty = true
		interactive = true
		seccomp_profile = "own"
		apparmor_profile = "strict"
		healthchecks { test = ["CMD", "x"] interval = "1m" retries = 2 }
	}`, &job)
	must.Eq(t, JobConfig{
		Image: "registry.example/app:1", PullPolicy: "always", Auth: JobAuth{"u", "p"}, Entrypoint: []string{"/init"}, Command: "run",
		Args: []string{"a", "b"}, WorkDir: "/srv", Hostname: "app", ReadonlyRootfs: true, CapAdd: []string{"chown"}, PidsLimit: 10,
		Ulimit: map[string]string{"nofile": "1:2"}, Sysctl: map[string]string{"kernel.shmmax": "1"}, Labels: map[string]string{"a": "b"},
		Mounts:  []JobMount{{Target: "/scratch", Size: "1MiB"}, {Type: "bind", Source: "/a", Target: "/b", ReadOnly: true}},
		Volumes: []string{"/x:/y:ro"}, Lease: JobLease{"lease", "30s"}, ExtraHosts: []string{"db:192.0.2.1"},
		GroupAdd: []string{"video"}, MemorySwap: "1GiB", Swappiness: new(int64), Devices: []JobDevice{{"/dev/fuse", "/dev/own", "r"}},
		Ports: []string{"http"}, PortMap: map[string]int{"http": 80}, Privileged: true,
		Init: true, TTY: true, Interactive: true, SeccompProfile: "own", AppArmor: "strict", Health: JobHealth{Test: []string{"CMD", "x"}, Interval: "1m", Retries: 2},
	}, job)
	var plain JobConfig
	hclutils.NewConfigParser(jobSpec()).ParseHCL(t, `config { image = "a" }`, &plain)
	must.Nil(t, plain.Swappiness, must.Sprint("0 is a choice, and none is none"))
}

func TestPluginConfig(t *testing.T) {
	var c Config
	hclutils.NewConfigParser(configSpec()).ParseHCL(t, `config {
		state_dir = "/srv/pangaea"
		insecure_registries = ["10.0.0.1:5000"]
		mirror { registry = "registry.example" hosts = ["mirror.example"] }
		auth { config = "/etc/auth.json" }
		gc { interval = "5m" high_watermark = 90 }
		userns { start = 200000 count = 655360 }
		dns { servers = ["192.0.2.53"] }
		driver_root = "/run/nvidia/driver"
		allow_caps = ["chown"]
		allow_host_network = true
	}`, &c)
	s := newSettings(c)
	must.SliceEmpty(t, s.problems)
	must.Eq(t, []string{"CAP_CHOWN"}, s.caps)
	must.Eq(t, 200000, s.idStart)
	must.Eq(t, 10, s.idSlots)
	must.Eq(t, map[string][]string{"registry.example": {"mirror.example"}}, s.mirrorMap())
	must.Eq(t, 90, s.GC.HighWatermark)
	must.True(t, s.AllowHostNetwork)
}

// TestSettings_problems shows that a bad option never fails the configuration: Nomad's agent would not start.
func TestSettings_problems(t *testing.T) {
	cases := []struct {
		text string
		conf Config
	}{
		{"state_dir", Config{StateDir: "relative"}},
		{"state_dir", Config{StateDir: "/a/../b"}},
		{"driver_root", Config{DriverRoot: "relative"}},
		{"pull_timeout", Config{PullTimeout: "soon"}},
		{"pull_timeout", Config{PullTimeout: "-1s"}},
		{"max_image_size", Config{MaxImageSize: "big"}},
		{"pids_limit", Config{PidsLimit: -1}},
		{"watermarks", Config{GC: GC{HighWatermark: 50, LowWatermark: 60}}},
		{"watermarks", Config{GC: GC{HighWatermark: 101}}},
		{"userns", Config{Userns: struct {
			Start int64 `codec:"start"`
			Count int64 `codec:"count"`
		}{Start: 1000}}},
		{"userns", Config{Userns: struct {
			Start int64 `codec:"start"`
			Count int64 `codec:"count"`
		}{Start: 1 << 62, Count: 1 << 62}}}, // their sum is negative
		{"needs either keys or allow_unsigned", Config{Signatures: []Signature{{}}}},
		{"needs either keys or allow_unsigned", Config{Signatures: []Signature{{Keys: []string{"/k"}, AllowUnsigned: true}}}},
		{"is no glob", Config{Signatures: []Signature{{Images: []string{"a/[b"}, AllowUnsigned: true}}}},
		{"allow_caps", Config{AllowCaps: []string{"everything"}}},
		{"allow_devices", Config{AllowDevices: []string{"/dev/../etc/shadow"}}},
		{"allow_devices", Config{AllowDevices: []string{"/var/lib/disk"}}},
		{"allow_seccomp_profiles", Config{AllowSeccompProfiles: "profiles"}},
		{"extra_labels", Config{ExtraLabels: []string{"["}}},
	}
	for _, c := range cases {
		t.Run(c.text, func(t *testing.T) {
			d := New(hclog.New(&hclog.LoggerOptions{Output: io.Discard}))
			defer d.Shutdown()
			var data []byte
			must.NoError(t, base.MsgPackEncode(&data, &c.conf))
			must.NoError(t, d.SetConfig(&base.Config{PluginConfig: data}))
			must.Len(t, 1, d.settings().problems)
			must.StrContains(t, d.settings().problems[0], c.text)
			print := d.settings().fingerprint(context.Background(), good())
			must.Eq(t, drivers.HealthStateUnhealthy, print.Health)
			must.StrContains(t, print.HealthDescription, c.text)
		})
	}
}

func good() probe {
	return probe{
		exists: func(string) bool { return true },
		read: func(path string) (string, error) {
			return map[string]string{
				"/proc/filesystems": "nodev\tproc\nnodev\toverlay\n\text4", "/proc/sys/user/max_user_namespaces": "1000", "/proc/sys/kernel/osrelease": "6.18.5-amd64",
			}[path], nil
		},
		version: func(context.Context, string) (string, error) { return "1.5.2", nil },
		other:   func(context.Context, string, OtherRuntime) (string, error) { return "9.9.9", nil },
	}
}

func TestFingerprint(t *testing.T) {
	with := func(path, text string) func(*probe) {
		return func(p *probe) {
			read := p.read
			p.read = func(at string) (string, error) {
				if at == path {
					return text, nil
				}
				return read(at)
			}
		}
	}
	cases := []struct {
		name, text string
		change     func(*probe)
	}{
		{"all well", "Healthy", func(*probe) {}},
		{"not root", "root", func(p *probe) { p.euid = 1000 }},
		{"no shim", "pangaea-shim is missing: install it beside the plugin", func(p *probe) { p.exists = func(at string) bool { return !strings.HasSuffix(at, "shim") } }},
		{"no runtime", "pangaea-runtime is missing", func(p *probe) { p.exists = func(at string) bool { return !strings.HasSuffix(at, "runtime") } }},
		{"no user namespaces", "user.max_user_namespaces", with("/proc/sys/user/max_user_namespaces", "0")},
		{"no overlay", "load the module overlay", with("/proc/filesystems", "nodev\tproc\n")},
		{"old kernel", "5.15.0 is too old", with("/proc/sys/kernel/osrelease", "5.15.0")},
		{"bad runtime", "known holes", func(p *probe) {
			p.version = func(context.Context, string) (string, error) { return "", errors.New("known holes") }
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := good()
			c.change(&p)
			got := newSettings(Config{}).fingerprint(context.Background(), p)
			must.StrContains(t, got.HealthDescription, c.text)
			must.Eq(t, c.name == "all well", got.Health == drivers.HealthStateHealthy)
			must.MapContainsKey(t, got.Attributes, "driver.runc.version")
		})
	}
}

func TestRootFingerprintHere(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ch, err := w.harness.Fingerprint(ctx)
	must.NoError(t, err)
	got := <-ch
	must.Eq(t, drivers.HealthStateHealthy, got.Health, must.Sprint(got.HealthDescription))
	version, ok := got.Attributes["driver.runc.libcontainer"].GetString()
	must.True(t, ok)
	must.True(t, atLeast(version, minLibcontainer))
}

func TestRuntimeVersion(t *testing.T) {
	cases := []struct{ says, want, fail string }{
		{"echo pangaea-runtime dev libcontainer v1.5.2", "1.5.2", ""},
		{"echo libcontainer 1.10.0", "1.10.0", ""},
		{"echo libcontainer v1.1.5", "", "known holes"},
		{"echo hello", "", "does not tell"},
		{"exit 1", "", "does not run"},
		{"env | grep -q HOME && echo libcontainer v1.5.2", "", "does not run"}, // it gets no environment
	}
	for _, c := range cases {
		t.Run(c.says, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "runtime")
			must.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"+c.says+"\n"), 0o755))
			got, err := runtimeVersion(context.Background(), program)
			must.Eq(t, c.want, got)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
			}
		})
	}
}

// TestConstructorsDoNothing holds Nomad's boot: three processes are configured, none may touch the machine.
func TestConstructorsDoNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := New(hclog.NewNullLogger())
	defer d.Shutdown()
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, &Config{StateDir: dir}))
	must.NoError(t, d.SetConfig(&base.Config{PluginConfig: data}))
	must.NoError(t, d.SetConfig(&base.Config{}))
	_, err := os.Stat(dir)
	must.ErrorIs(t, err, os.ErrNotExist)
	info, err := d.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "runc", info.Name)
}
