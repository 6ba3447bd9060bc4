package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"pangaea/driver/sandbox"
)

func TestCommand(t *testing.T) {
	image := imageFacts{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd", "x"}}
	cases := []struct {
		name string
		job  JobConfig
		want string
	}{
		{"the image's", JobConfig{}, "/entry cmd x"},
		{"command replaces cmd", JobConfig{Command: "run"}, "/entry run"},
		{"command and args", JobConfig{Command: "run", Args: []string{"a"}}, "/entry run a"},
		{"args replace cmd", JobConfig{Args: []string{"a"}}, "/entry a"},
		{"entrypoint drops both", JobConfig{Entrypoint: []string{"/own"}}, "/own"},
		{"entrypoint with command", JobConfig{Entrypoint: []string{"/own"}, Command: "run"}, "/own run"},
		{"no entrypoint", JobConfig{Entrypoint: []string{}, Command: "run"}, "run"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { must.Eq(t, c.want, strings.Join(command(&c.job, image), " ")) })
	}
}

func TestWorkDir(t *testing.T) {
	cases := []struct{ job, image, want string }{
		{"", "", "/"},
		{"", "/", "/"},
		{"", "/srv", "/srv"},
		{"", "/srv/", "/srv"},
		{"/own", "/srv/", "/own"},
		{"/own/", "", "/own"},
		{"/own/../x", "", "/own/../x"}, // the sandbox refuses it
	}
	for _, c := range cases {
		must.Eq(t, c.want, workDir(&JobConfig{WorkDir: c.job}, imageFacts{WorkingDir: c.image}), must.Sprint(c))
	}
}

func TestCgroupPath(t *testing.T) {
	cases := []struct {
		given string
		v2    bool
		want  string
	}{
		{"/sys/fs/cgroup/cpuset/nomad/share", false, "/nomad/a.web"},
		{"/sys/fs/cgroup/cpuset/nomad/reserve/a.web", false, "/nomad/a.web"},
		{"/sys/fs/cgroup/cpuset/own/deep/share", false, "/own/deep/a.web"},
		{"", false, "/nomad/a.web"},
		{"/sys/fs/cgroup/nomad.slice/share.slice/a.web.scope", true, "/nomad.slice/share.slice/a.web.scope"},
		{"", true, "/nomad.slice/share.slice/a.web.scope"},
	}
	for _, c := range cases {
		cfg := &drivers.TaskConfig{AllocID: "a", Name: "web", Resources: &drivers.Resources{LinuxResources: &drivers.LinuxResources{CpusetCgroupPath: c.given}}}
		must.Eq(t, c.want, cgroupPath(cfg, &sandbox.Host{CgroupV2: c.v2}), must.Sprint(c.given))
	}
}

func TestResolveUser(t *testing.T) {
	root := t.TempDir()
	must.NoError(t, os.MkdirAll(filepath.Join(root, "real"), 0o755))
	must.NoError(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	// An absolute link means a place in the image.
	must.NoError(t, os.Symlink("/real/passwd", filepath.Join(root, "etc/passwd")))
	must.NoError(t, os.WriteFile(filepath.Join(root, "real/passwd"), []byte("garbage\nroot:x:0:0::\nalice:x:1000:1001::\nbad:x:-1:0\n4000:x:0:0::\n"), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("staff:x:1001:alice\nall:x:1003:"+strings.Repeat("somebody,", 10_000)+"\nextra:x:1002:bob,alice\n4000:x:0:\n"), 0o644))
	cases := []struct {
		spec string
		want sandbox.User
		fail string
	}{
		{"", sandbox.User{}, ""},
		{"alice", sandbox.User{UID: 1000, GID: 1001, Groups: []uint32{1002}}, ""},
		{"1000", sandbox.User{UID: 1000, GID: 1001, Groups: []uint32{1002}}, ""},
		{"7", sandbox.User{UID: 7}, ""},
		{"7:extra", sandbox.User{UID: 7, GID: 1002}, ""},
		{"alice:0", sandbox.User{UID: 1000}, ""},
		// A number is never a name (CVE-2016-3697): the image would turn the job's plain user into root.
		{"4000", sandbox.User{UID: 4000}, ""},
		{"4000:4000", sandbox.User{UID: 4000, GID: 4000}, ""},
		{"bob", sandbox.User{}, "no such user"},
		{"bad", sandbox.User{}, "no such user"},
		{"alice:nogroup", sandbox.User{}, "no such group"},
		{"-1", sandbox.User{}, "no such user"},
	}
	for _, c := range cases {
		t.Run(c.spec, func(t *testing.T) {
			got, err := resolveUser(root, c.spec)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
				return
			}
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
}

func TestResolveUser_hostileFiles(t *testing.T) {
	cases := map[string]func(passwd string) error{
		"FIFO":          func(p string) error { return unix.Mkfifo(p, 0o644) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"link outside":  func(p string) error { return os.Symlink("../../../../../../../../etc/passwd", p) },
		"link to proc":  func(p string) error { return os.Symlink("/proc/self/root/etc/passwd", p) },
		"link to a fd":  func(p string) error { return os.Symlink("/proc/self/fd/0", p) },
		"link to /dev/": func(p string) error { return os.Symlink("/dev/zero", p) },
		"endless line":  func(p string) error { return os.WriteFile(p, make([]byte, 8<<20), 0o644) },
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			must.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
			must.NoError(t, make(filepath.Join(root, "etc/passwd")))
			_, err := resolveUser(root, "root") // the host's own passwd has a root
			must.Error(t, err)
		})
	}
}

func TestIDRanges(t *testing.T) {
	dir := t.TempDir()
	r := &idRanges{dir: filepath.Join(dir, "registry"), start: 0x70000000, slots: 2}
	task := func(name string) string {
		d := filepath.Join(dir, name)
		must.NoError(t, os.MkdirAll(d, 0o755))
		return d
	}
	a, b, c := task("a"), task("b"), task("c")
	first, err := r.claim(a)
	must.NoError(t, err)
	again, err := r.claim(a)
	must.NoError(t, err)
	must.Eq(t, first, again, must.Sprint("a recovered task keeps its range"))
	second, err := r.claim(b)
	must.NoError(t, err)
	must.Eq(t, first+65536, second)
	_, err = r.claim(c)
	must.ErrorContains(t, err, "all 2 are in use")
	r.release(first, c)
	_, err = r.claim(c)
	must.Error(t, err, must.Sprint("only the owner releases"))
	r.release(first, a)
	third, err := r.claim(c)
	must.NoError(t, err)
	must.Eq(t, first, third)
	must.NoError(t, os.Remove(b))
	fourth, err := r.claim(a)
	must.NoError(t, err)
	must.Eq(t, second, fourth, must.Sprint("a dead task's range is free"))
}

func TestSandboxID(t *testing.T) {
	cases := map[string]string{
		"0b9c1234-aaaa/Web_App/01234567": "0b9c1234-web-app-",
		"../../etc/x":                    "",
		"":                               "",
	}
	for id, prefix := range cases {
		must.StrHasPrefix(t, prefix, strings.TrimLeft(sandboxID(id), "-"), must.Sprint(id))
	}
	rapid.Check(t, func(rt *rapid.T) {
		id := rapid.String().Draw(rt, "id")
		got := sandboxID(id)
		if len(got) > 128 || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(got) < 16 {
			rt.Fatalf("unsafe name %q", got)
		}
	})
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"": unix.SIGTERM, "SIGHUP": unix.SIGHUP, "int": unix.SIGINT, "9": unix.SIGKILL,
		"SIGRTMIN+3": 37, "rtmin": 34, "RTMIN+0": 34, "SIGRTMAX-2": 62, "RTMAX": 64, "37": 37,
	} {
		got, err := parseSignal(text, unix.SIGTERM)
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	for _, bad := range []string{"SIGNONE", "0", "65", "9 x", "-9", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN3", "RTMIN+", "RTMIN+x", "-1"} {
		_, err := parseSignal(bad, unix.SIGTERM)
		must.Error(t, err, must.Sprint(bad))
	}
}

// TestRefusals_table has jobs written for other drivers told what to write instead.
func TestRefusals_table(t *testing.T) {
	cases := []struct{ config, text string }{
		{`privileged = true`, "owns its host"},
		{`force_pull = true`, `image_pull_policy = "always"`},
		{`load = "image.tar"`, "docker-archive:"},
		{`logging { type = "journald" config { tag = "x" } }`, "nomad alloc logs"},
		{`logging { driver = "none" }`, "nomad alloc logs"},
		{`security_opt = ["seccomp=unconfined"]`, "seccomp_profile"},
		{`storage_opt { size = "1G" }`, "disk_limit"},
		{`network_aliases = ["db"]`, "CNI"},
		{`mac_address = "02:00:00:00:00:01"`, "CNI"},
		{`ipv4_address = "10.0.0.2"`, "CNI"},
		{`ipv6_address = "fd00::2"`, "CNI"},
		{`cpuset_cpus = "0-1"`, "cores"},
		{`memory_hard_limit = 256`, "memory_max"},
		{`volume_driver = "nfs"`, "CSI"},
		{`port_map { http = 80 }`, "network block"},
		{`image_pull_timeout = "soon"`, "positive duration"},
	}
	for _, c := range cases {
		var job JobConfig
		hclutils.NewConfigParser(jobSpec()).ParseHCL(t, "config {\n image = \"a\"\n"+c.config+"\n}", &job)
		err := permit(&job, newSettings(Config{}))
		if err == nil {
			_, err = pullTimeout(&job)
		}
		must.ErrorContains(t, err, c.text, must.Sprint(c.config))
	}
}

func TestRules_table(t *testing.T) {
	// Each row is one loosening: what asks for it, and the option that allows it.
	cases := []struct {
		option string
		job    JobConfig
		conf   Config
	}{
		{"allow_host_network", JobConfig{NetworkMode: "host"}, Config{AllowHostNetwork: true}},
		{"allow_userns_host", JobConfig{UsernsMode: "host"}, Config{AllowHostUsers: true}},
		{"allow_volumes", JobConfig{Volumes: []string{"/a:/b"}}, Config{AllowVolumes: true}},
		{"allow_volumes", JobConfig{Mounts: []JobMount{{Type: "bind"}}}, Config{AllowVolumes: true}},
		{"allow_caps", JobConfig{CapAdd: []string{"CAP_CHOWN"}}, Config{AllowCaps: []string{"chown"}}},
		{"allow_caps", JobConfig{CapAdd: []string{"nonsense"}}, Config{}},
		{"allow_sysctls", JobConfig{Sysctl: map[string]string{"net/core/somaxconn": "1"}}, Config{AllowSysctls: []string{"net.core.somaxconn"}}},
		{"allow_devices", JobConfig{Devices: []JobDevice{{HostPath: "/dev/fuse"}}}, Config{AllowDevices: []string{"/dev/fuse"}}},
		{"allow_seccomp_profiles", JobConfig{SeccompProfile: "own"}, Config{AllowSeccompProfiles: "/etc/pangaea/seccomp"}},
		{"allow_apparmor_profiles", JobConfig{AppArmor: "own"}, Config{AllowAppArmor: []string{"own"}}},
		{"allow_apparmor_profiles", JobConfig{AppArmor: "unconfined"}, Config{AllowAppArmor: []string{"unconfined"}}},
		{"allow_swap", JobConfig{MemorySwap: "1GiB"}, Config{AllowSwap: true}},
		{"allow_swap", JobConfig{Swappiness: new(int64)}, Config{AllowSwap: true}},
	}
	for _, c := range cases {
		err := permit(&c.job, newSettings(Config{}))
		must.ErrorContains(t, err, c.option)
		if !strings.Contains(err.Error(), "nonsense") {
			must.NoError(t, permit(&c.job, newSettings(c.conf)))
		}
	}
	must.NoError(t, permit(&JobConfig{}, newSettings(Config{})))
	must.NoError(t, permit(&JobConfig{Sysctl: map[string]string{"net/ipv4/tcp_wmem": "1 2 3"}}, newSettings(Config{})))
}
