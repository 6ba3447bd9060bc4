package sandbox_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"pangaea/driver/sandbox"
)

func plain() sandbox.Task {
	return sandbox.Task{
		Hostname: "web-1", Rootfs: "/state/rootfs", Args: []string{"/bin/app", "-v"}, Cwd: "/", IDStart: 0x70000000,
		CgroupsPath: "/nomad/alloc.web", Resources: sandbox.Resources{CPUShares: 500, MemoryBytes: 256 << 20, Pids: 4096},
		Binds: []sandbox.Bind{{Source: "/nomad/alloc/web/local", Target: "/local", Mapped: true}},
	}
}

func gpuTask() sandbox.Task {
	t := plain()
	t.GPUs = sandbox.GPUs{Visible: "GPU-1", Driver: "/state/gpu/570"}
	t.ImageEnv = []string{"LD_LIBRARY_PATH=/opt/lib", "NVIDIA_VISIBLE_DEVICES=all"}
	t.Device = []sandbox.Device{{Source: "/dev/nvidia1", Target: "/dev/nvidia1", Type: "c", Major: 195, Minor: 1, Access: "rw"}}
	return t
}

func host() sandbox.Host {
	return sandbox.Host{
		Capabilities: []string{"CAP_CHOWN", "CAP_SETUID"},
		Rlimits:      map[string]sandbox.Limit{"RLIMIT_NOFILE": {Soft: 1024, Hard: 4096}},
	}
}

func TestSpec_sandbox(t *testing.T) {
	mount := func(s *specs.Spec, at string) specs.Mount {
		i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == at })
		must.NonNegative(t, i, must.Sprintf("no mount at %s", at))
		return s.Mounts[i]
	}
	env := func(s *specs.Spec, key string) string {
		for _, e := range s.Process.Env {
			if v, ok := strings.CutPrefix(e, key+"="); ok {
				return v
			}
		}
		return "(unset)"
	}
	cases := []struct {
		name   string
		change func(*sandbox.Task, *sandbox.Host)
		want   func(*testing.T, *specs.Spec)
	}{
		{"no profile unless one was decided on", nil, func(t *testing.T, s *specs.Spec) { must.Eq(t, "", s.Process.ApparmorProfile) }},
		{"AppArmor's profile", func(task *sandbox.Task, _ *sandbox.Host) { task.AppArmor = "own" }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, "own", s.Process.ApparmorProfile)
			must.ErrorContains(t, sandbox.Check(s, sandbox.Loosened{}), "AppArmor")
		}},
		{"no hooks", nil, func(t *testing.T, s *specs.Spec) { must.Nil(t, s.Hooks) }},
		{"user namespace with the task's range", nil, func(t *testing.T, s *specs.Spec) {
			want := []specs.LinuxIDMapping{{HostID: 0x70000000, Size: 65536}}
			must.Eq(t, want, s.Linux.UIDMappings)
			must.Eq(t, want, s.Linux.GIDMappings)
		}},
		{"seven private namespaces", nil, func(t *testing.T, s *specs.Spec) {
			must.Len(t, 7, s.Linux.Namespaces)
			for _, n := range s.Linux.Namespaces {
				must.Eq(t, "", n.Path)
			}
		}},
		{"joined network brings its own sysfs", func(k *sandbox.Task, _ *sandbox.Host) { k.Netns, k.Sysfs = "/run/netns/x", "/state/sys" }, func(t *testing.T, s *specs.Spec) {
			must.SliceContains(t, s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/x"})
			must.Eq(t, "/state/sys", mount(s, "/sys").Source)
			must.SliceContains(t, mount(s, "/sys").Options, "ro")
		}},
		{"host network only when told", func(k *sandbox.Task, _ *sandbox.Host) { k.HostNetwork, k.Sysfs = true, "/state/sys" }, func(t *testing.T, s *specs.Spec) {
			for _, n := range s.Linux.Namespaces {
				must.NotEq(t, specs.NetworkNamespace, n.Type)
			}
		}},
		{"five empty capability sets", nil, func(t *testing.T, s *specs.Spec) { must.Eq(t, &specs.LinuxCapabilities{}, s.Process.Capabilities) }},
		{"allowed capability is never inheritable", func(k *sandbox.Task, _ *sandbox.Host) { k.Capabilities = []string{"CAP_CHOWN"} }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, []string{"CAP_CHOWN"}, s.Process.Capabilities.Effective)
			must.SliceEmpty(t, s.Process.Capabilities.Inheritable)
			must.SliceEmpty(t, s.Process.Capabilities.Ambient)
		}},
		{"no new privileges", nil, func(t *testing.T, s *specs.Spec) { must.True(t, s.Process.NoNewPrivileges) }},
		{"does not inherit Nomad's OOM protection", func(_ *sandbox.Task, h *sandbox.Host) { h.OOMScoreAdj = -1000 }, func(t *testing.T, s *specs.Spec) { must.Eq(t, 0, *s.Process.OOMScoreAdj) }},
		{"limits clamped to the driver's own", func(k *sandbox.Task, _ *sandbox.Host) {
			k.Rlimits = map[string]sandbox.Limit{"RLIMIT_NOFILE": {Soft: 9999, Hard: 1 << 30}}
		}, func(t *testing.T, s *specs.Spec) {
			must.SliceContains(t, s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 4096, Hard: 4096})
			must.SliceContains(t, s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE"})
		}},
		{"dangerous calls denied even with the capability", func(k *sandbox.Task, h *sandbox.Host) {
			k.Capabilities, h.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_BPF"}, []string{"CAP_SYS_ADMIN", "CAP_BPF"}
		}, func(t *testing.T, s *specs.Spec) {
			for _, call := range []string{"bpf", "mount", "unshare", "setns", "keyctl", "userfaultfd", "io_uring_setup", "perf_event_open"} {
				must.False(t, allows(s, call), must.Sprint(call))
			}
		}},
		{"what a runtime calls late is allowed", nil, func(t *testing.T, s *specs.Spec) {
			for _, call := range []string{"statx", "openat2", "close_range", "execve", "fstat", "futex", "write"} {
				must.True(t, allows(s, call), must.Sprint(call))
			}
		}},
		{"sockets by family, one table of calls", nil, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, []uint64{1, 2, 10, 16}, families(s))
			must.Len(t, 1, s.Linux.Seccomp.Architectures)
		}},
		{"device cgroup denies all, then nine kinds of nodes", nil, func(t *testing.T, s *specs.Spec) {
			d := s.Linux.Resources.Devices
			must.Eq(t, specs.LinuxDeviceCgroup{Access: "rwm"}, d[0])
			must.Len(t, 9, d)
		}},
		{"no GPU: nothing of NVIDIA's", func(k *sandbox.Task, _ *sandbox.Host) { k.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"} }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, "void", env(s, "NVIDIA_VISIBLE_DEVICES"))
			must.SliceContains(t, s.Linux.MaskedPaths, "/proc/driver/nvidia")
			for _, m := range s.Mounts {
				must.StrNotContains(t, m.Destination, "nvidia")
			}
		}},
		{"GPU: the granted node, the driver read-only, its environment", func(k *sandbox.Task, _ *sandbox.Host) {
			*k = gpuTask()
			k.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}
		}, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, "GPU-1", env(s, "NVIDIA_VISIBLE_DEVICES"))
			must.Eq(t, "/opt/lib:/usr/local/nvidia/lib:/usr/local/nvidia/lib64", env(s, "LD_LIBRARY_PATH"))
			must.StrHasSuffix(t, ":/usr/local/nvidia/bin", env(s, "PATH"))
			must.SliceContains(t, mount(s, "/usr/local/nvidia").Options, "ro")
			must.SliceNotContains(t, mount(s, "/dev/nvidia1").Options, "nodev")
			last := s.Linux.Resources.Devices[len(s.Linux.Resources.Devices)-1]
			must.Eq(t, int64(195), *last.Major)
			must.Eq(t, int64(1), *last.Minor)
		}},
		{"the grant's own keys stay out of the task's sight", func(k *sandbox.Task, _ *sandbox.Host) { k.Env = map[string]string{"PANGAEA_GPU_GPU_1": "GPU-1"} }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, "(unset)", env(s, "PANGAEA_GPU_GPU_1"))
		}},
		{"binds without setuid and devices, owners mapped", nil, func(t *testing.T, s *specs.Spec) {
			m := mount(s, "/local")
			must.Eq(t, []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "idmap"}, m.Options)
			must.Eq(t, s.Linux.UIDMappings, m.UIDMappings)
		}},
		{"sized memory file systems", func(k *sandbox.Task, _ *sandbox.Host) {
			k.ShmBytes, k.Tmpfs = 1<<30, []sandbox.Tmpfs{{Target: "/scratch"}}
		}, func(t *testing.T, s *specs.Spec) {
			must.SliceContains(t, mount(s, "/dev/shm").Options, "size=1073741824")
			must.SliceContains(t, mount(s, "/scratch").Options, "size=268435456")
		}},
		{"read-only root gets a /tmp", func(k *sandbox.Task, _ *sandbox.Host) { k.ReadonlyRootfs = true }, func(t *testing.T, s *specs.Spec) {
			must.True(t, s.Root.Readonly)
			must.Eq(t, "tmpfs", mount(s, "/tmp").Type)
		}},
		{"memory without swap, processes, CPU", func(k *sandbox.Task, _ *sandbox.Host) {
			k.Resources.MemoryReservation, k.Resources.CPUQuota, k.Resources.CPUPeriod = 128<<20, 50000, 100000
		}, func(t *testing.T, s *specs.Spec) {
			r := s.Linux.Resources
			must.Eq(t, int64(256<<20), *r.Memory.Swap)
			must.Eq(t, int64(128<<20), *r.Memory.Reservation)
			must.Eq(t, int64(4096), *r.Pids.Limit)
			must.Eq(t, int64(50000), *r.CPU.Quota)
			must.Eq(t, uint64(500), *r.CPU.Shares)
		}},
		{"own sysctl", func(k *sandbox.Task, _ *sandbox.Host) { k.Sysctls = map[string]string{"net.core.somaxconn": "512"} }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, "512", s.Linux.Sysctl["net.core.somaxconn"])
			must.Eq(t, "0", s.Linux.Sysctl["net.ipv4.ip_unprivileged_port_start"])
		}},
		{"swap only when told", func(k *sandbox.Task, _ *sandbox.Host) { k.Resources.MemorySwapBytes = 512 << 20 }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, int64(512<<20), *s.Linux.Resources.Memory.Swap)
			must.ErrorIs(t, sandbox.Check(s, sandbox.Loosened{}), sandbox.ErrUnsafe)
		}},
		{"goes first when memory is short", func(k *sandbox.Task, h *sandbox.Host) { k.OOMScoreAdj, h.OOMScoreAdj = 300, 200 }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, 300, *s.Process.OOMScoreAdj)
		}},
		{"never protected more than the driver", func(k *sandbox.Task, h *sandbox.Host) { k.OOMScoreAdj, h.OOMScoreAdj = 100, 200 }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, 200, *s.Process.OOMScoreAdj)
		}},
		{"more shares than the kernel counts", func(k *sandbox.Task, _ *sandbox.Host) { k.Resources.CPUShares = 1 << 30 }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, uint64(1<<18), *s.Linux.Resources.CPU.Shares)
		}},
		{"an init that is the host's", func(k *sandbox.Task, _ *sandbox.Host) { k.Init = "/opt/pangaea-shim" }, func(t *testing.T, s *specs.Spec) {
			must.Eq(t, []string{"/dev/pangaea-init", "/bin/app", "-v"}, s.Process.Args)
			m := mount(s, "/dev/pangaea-init")
			must.Eq(t, "/opt/pangaea-shim", m.Source)
			must.Eq(t, []string{"rbind", "rprivate", "ro", "rro", "nosuid", "nodev"}, m.Options)
		}},
		{"its own cgroups, read-only", nil, func(t *testing.T, s *specs.Spec) {
			must.SliceContains(t, mount(s, "/sys/fs/cgroup").Options, "ro")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			task, h := plain(), host()
			if c.change != nil {
				c.change(&task, &h)
			}
			s, err := sandbox.Spec(task, h)
			must.NoError(t, err)
			must.NoError(t, sandbox.Check(s, sandbox.Loosened{HostNetwork: task.HostNetwork, HostUsers: task.HostUsers, Capabilities: task.Capabilities, AppArmor: task.AppArmor, Swap: task.Resources.MemorySwapBytes > 0}))
			c.want(t, s)
		})
	}
}

func TestSpec_refusals(t *testing.T) {
	cases := []struct {
		name, text string
		change     func(*sandbox.Task)
	}{
		{"no command", "set command", func(k *sandbox.Task) { k.Args = nil }},
		{"leaked descriptor as directory (CVE-2024-21626)", "work_dir", func(k *sandbox.Task) { k.Cwd = "/proc/self/fd/../7" }},
		{"relative directory", "work_dir", func(k *sandbox.Task) { k.Cwd = "app" }},
		{"no range", "user identifiers", func(k *sandbox.Task) { k.IDStart = 0 }},
		{"no limit of processes", "0 does not mean unlimited", func(k *sandbox.Task) { k.Resources.Pids = 0 }},
		{"no limit of memory", "memory limit", func(k *sandbox.Task) { k.Resources.MemoryBytes = 0 }},
		{"user outside the range", "65536", func(k *sandbox.Task) { k.User.UID = 70000 }},
		{"cgroup elsewhere", "cgroup path", func(k *sandbox.Task) { k.CgroupsPath = "/nomad/../init.scope" }},
		{"mount over /proc", "belongs to the sandbox", func(k *sandbox.Task) { k.Binds = []sandbox.Bind{{Source: "/x", Target: "/proc/sys"}} }},
		{"mount over the root", "clean absolute", func(k *sandbox.Task) { k.Binds = []sandbox.Bind{{Source: "/x", Target: "/"}} }},
		{"tmpfs over /dev", "belongs to the sandbox", func(k *sandbox.Task) { k.Tmpfs = []sandbox.Tmpfs{{Target: "/dev"}} }},
		{"tmpfs by a crooked path", "clean absolute", func(k *sandbox.Task) { k.Tmpfs = []sandbox.Tmpfs{{Target: "/a/../proc"}} }},
		{"relative source", "absolute", func(k *sandbox.Task) { k.Binds = []sandbox.Bind{{Source: "x", Target: "/y"}} }},
		{"the host's sysctl", "the host's", func(k *sandbox.Task) { k.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} }},
		{"the host's sysctl with slashes", "the host's", func(k *sandbox.Task) { k.Sysctls = map[string]string{"kernel/core_pattern": "|/x"} }},
		{"sysctl by path", "the host's", func(k *sandbox.Task) { k.Sysctls = map[string]string{"net/../kernel/core_pattern": "x"} }},
		{"sysctl of a shared network", "shares", func(k *sandbox.Task) { k.Netns, k.Sysctls = "/n", map[string]string{"net.core.somaxconn": "1"} }},
		{"capability the driver lacks", "does not have", func(k *sandbox.Task) { k.Capabilities = []string{"CAP_SYS_RESOURCE"} }},
		{"unknown limit", "no limit", func(k *sandbox.Task) { k.Rlimits = map[string]sandbox.Limit{"RLIMIT_RTPRIO": {}} }},
		{"runtime's annotation", "reserved", func(k *sandbox.Task) { k.Labels = map[string]string{"run.oci.hooks.stderr": "x"} }},
		{"NUL in the environment", "NUL", func(k *sandbox.Task) { k.Env = map[string]string{"A": "b\x00LD_PRELOAD=x"} }},
		{"device outside /dev", "not a place", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/dev/x", Target: "/etc/x", Type: "c", Access: "rw"}}
		}},
		{"device over /dev/null, of which masks are made", "not a place", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/dev/x", Target: "/dev/null", Type: "c", Access: "rw"}}
		}},
		{"device over the init", "not a place", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/dev/x", Target: "/dev/pangaea-init", Type: "c", Access: "rw"}}
		}},
		{"profile that is none", "operator's profile", func(k *sandbox.Task) { k.Seccomp = "{" }},
		{"device in /dev/shm", "not a place", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/dev/x", Target: "/dev/shm/x", Type: "c", Access: "rw"}}
		}},
		{"no device", "not a device node", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/etc/shadow", Target: "/dev/x", Access: "rw"}}
		}},
		{"protected from the OOM killer", "oom_score_adj", func(k *sandbox.Task) { k.OOMScoreAdj = -1 }},
		{"device with strange access", "access", func(k *sandbox.Task) {
			k.Device = []sandbox.Device{{Source: "/dev/x", Target: "/dev/x", Type: "c", Access: "rwx"}}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			task := plain()
			c.change(&task)
			_, err := sandbox.Spec(task, host())
			must.ErrorContains(t, err, c.text)
		})
	}
}

// TestCheck_bites loosens a good specification in every way that Check must notice.
func TestCheck_bites(t *testing.T) {
	cases := map[string]func(*specs.Spec){
		"hook":           func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
		"host users":     func(s *specs.Spec) { s.Linux.UIDMappings[0].HostID = 0 },
		"host pids":      func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"init's network": func(s *specs.Spec) { s.Linux.Namespaces[5].Path = "/proc/1/ns/net" },
		"new privileges": func(s *specs.Spec) { s.Process.NoNewPrivileges = false },
		"capability":     func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_CHOWN"} },
		"ambient":        func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_CHOWN"} },
		"no seccomp":     func(s *specs.Spec) { s.Linux.Seccomp = nil },
		"bpf": func(s *specs.Spec) {
			s.Linux.Seccomp.Syscalls[0].Names = append(s.Linux.Seccomp.Syscalls[0].Names, "bpf")
		},
		"all devices":        func(s *specs.Spec) { s.Linux.Resources.Devices[0].Allow = true },
		"a whole major":      func(s *specs.Spec) { s.Linux.Resources.Devices[1].Minor = nil },
		"modeset":            func(s *specs.Spec) { s.Mounts[5].Destination = "/dev/nvidia-modeset" },
		"setuid":             func(s *specs.Spec) { s.Mounts[6].Options = []string{"nodev"} },
		"devices in a bind":  func(s *specs.Spec) { s.Mounts[6].Options = []string{"nosuid"} },
		"second /proc":       func(s *specs.Spec) { s.Mounts = append(s.Mounts, s.Mounts[0]) },
		"kcore":              func(s *specs.Spec) { s.Linux.MaskedPaths = s.Linux.MaskedPaths[5:] },
		"swap":               func(s *specs.Spec) { s.Linux.Resources.Memory.Swap = nil },
		"fork bomb":          func(s *specs.Spec) { s.Linux.Resources.Pids = nil },
		"directory":          func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/../3" },
		"environment":        func(s *specs.Spec) { s.Process.Env = nil },
		"protected from OOM": func(s *specs.Spec) { n := -1000; s.Process.OOMScoreAdj = &n },
	}
	for name, loosen := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := sandbox.Spec(plain(), host())
			must.NoError(t, err)
			must.NoError(t, sandbox.Check(s, sandbox.Loosened{}))
			loosen(s)
			must.True(t, errors.Is(sandbox.Check(s, sandbox.Loosened{}), sandbox.ErrUnsafe))
		})
	}
}

// TestCheck_profiles holds even the operator's own profiles to what makes them profiles.
func TestCheck_profiles(t *testing.T) {
	cases := []struct {
		name, profile string
		safe          bool
	}{
		{"denies what it does not name", `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["perf_event_open"], "action": "SCMP_ACT_ALLOW"}]}`, true},
		{"kills what it does not name", `{"defaultAction": "SCMP_ACT_KILL_PROCESS"}`, true},
		{"allows what it does not name", `{"defaultAction": "SCMP_ACT_ALLOW"}`, false},
		{"only logs what it does not name", `{"defaultAction": "SCMP_ACT_LOG"}`, false},
		{"asks another process", `{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/x.sock", "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}]}`, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			task := plain()
			task.Seccomp = c.profile
			s, err := sandbox.Spec(task, host())
			must.NoError(t, err)
			err = sandbox.Check(s, sandbox.Loosened{Seccomp: true})
			must.Eq(t, c.safe, err == nil, must.Sprint(err))
		})
	}
	s, err := sandbox.Spec(plain(), host())
	must.NoError(t, err)
	s.Linux.Seccomp = nil
	must.ErrorIs(t, sandbox.Check(s, sandbox.Loosened{Seccomp: true}), sandbox.ErrUnsafe)
}

// mostly draws what is good nine times of ten, so that most tasks have one thing wrong or nothing.
func mostly[T any](good, hostile *rapid.Generator[T]) *rapid.Generator[T] {
	return rapid.Custom(func(rt *rapid.T) T {
		if rapid.IntRange(0, 9).Draw(rt, "die") == 9 {
			return hostile.Draw(rt, "hostile")
		}
		return good.Draw(rt, "good")
	})
}

// TestSpec_always draws hostile tasks: each is refused or becomes a sandbox.
func TestSpec_always(t *testing.T) {
	crooked := rapid.OneOf(rapid.StringMatching(`(/(proc|sys|dev|tmp|local|etc|\.\.|a)){1,3}`), rapid.String())
	places := mostly(rapid.StringMatching(`/[a-c]{4,8}`), crooked)
	names := mostly(rapid.StringMatching(`[A-Z_]{1,9}`), rapid.OneOf(rapid.String(), rapid.Just("NVIDIA_VISIBLE_DEVICES"), rapid.Just("PANGAEA_GPU_X")))
	numbers := mostly(rapid.Int64Range(1, 1<<40), rapid.Int64())
	built := 0
	rapid.Check(t, func(rt *rapid.T) {
		task := plain()
		task.Cwd = places.Draw(rt, "cwd")
		task.Args = append([]string{"/app"}, rapid.SliceOf(mostly(rapid.StringMatching(`[ -~]{0,9}`), rapid.String())).Draw(rt, "args")...)
		task.Env = rapid.MapOfN(names, rapid.StringMatching(`[ -~]{0,9}`), 0, 3).Draw(rt, "env")
		task.ImageEnv = rapid.SliceOf(rapid.String()).Draw(rt, "image env")
		task.IDStart = mostly(rapid.Uint32Range(65536, 1<<30), rapid.Uint32()).Draw(rt, "ids")
		task.User = sandbox.User{UID: mostly(rapid.Uint32Range(0, 65535), rapid.Uint32()).Draw(rt, "uid"), GID: rapid.Uint32Range(0, 65535).Draw(rt, "gid")}
		task.Resources = sandbox.Resources{MemoryBytes: numbers.Draw(rt, "memory"), Pids: numbers.Draw(rt, "pids"), CPUShares: numbers.Draw(rt, "shares")}
		task.Binds = append(task.Binds, sandbox.Bind{Source: places.Draw(rt, "source"), Target: places.Draw(rt, "target"), Mapped: rapid.Bool().Draw(rt, "mapped")})
		task.Tmpfs = []sandbox.Tmpfs{{Target: places.Draw(rt, "tmpfs"), SizeBytes: numbers.Draw(rt, "size")}}
		task.Sysctls = map[string]string{mostly(rapid.SampledFrom([]string{"net.core.somaxconn", "kernel.shmmax"}), rapid.String()).Draw(rt, "sysctl"): "1"}
		task.ReadonlyRootfs = rapid.Bool().Draw(rt, "readonly")
		s, err := sandbox.Spec(task, host())
		if err != nil {
			return
		}
		built++
		err = sandbox.Check(s, sandbox.Loosened{})
		if err != nil {
			rt.Fatal(err)
		}
	})
	must.Positive(t, built, must.Sprint("no drawn task was good, so nothing was shown"))
	t.Log("sandboxes built", built)
}

// TestSpec_golden holds whole specifications, so that a change of the sandbox is seen in review. UPDATE with -update.
func TestSpec_golden(t *testing.T) {
	jobs := map[string]sandbox.Task{"plain": plain(), "gpu": gpuTask()}
	for name, task := range jobs {
		t.Run(name, func(t *testing.T) {
			s, err := sandbox.Spec(task, host())
			must.NoError(t, err)
			got, err := json.MarshalIndent(s, "", "  ")
			must.NoError(t, err)
			file := filepath.Join("testdata", name+".json")
			if *update {
				must.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
			}
			want, err := os.ReadFile(file)
			must.NoError(t, err)
			must.Eq(t, strings.TrimSpace(string(want)), string(got), must.Sprint("run with -update if the change is meant"))
		})
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func allows(s *specs.Spec, call string) bool {
	for _, rule := range s.Linux.Seccomp.Syscalls {
		if rule.Action == specs.ActAllow && slices.Contains(rule.Names, call) {
			return true
		}
	}
	return false
}

func families(s *specs.Spec) []uint64 {
	var out []uint64
	for _, rule := range s.Linux.Seccomp.Syscalls {
		if slices.Equal(rule.Names, []string{"socket"}) {
			out = append(out, rule.Args[0].Value)
		}
	}
	slices.Sort(out)
	return out
}
