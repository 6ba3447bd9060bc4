package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/record"
)

// suited is a spec made one for gVisor.
func suited(spec *specs.Spec, r Runtime) (*specs.Spec, *record.Launch, error) {
	r.Kind = KindRunsc
	s := New(Config{Others: map[string]Runtime{"gvisor": r}})
	launch := &record.Launch{RuntimeKind: KindRunsc}
	got, err := s.suit(Launch{Spec: spec, Dir: "/tasks/a", Runtime: "gvisor"}, launch)
	return got, launch, err
}

func plainSpec(change func(*specs.Spec)) *specs.Spec {
	s := (&bench{rootfs: "/rootfs"}).spec("a", []string{"true"})
	if change != nil {
		change(s)
	}
	return s
}

func TestRunscNetwork(t *testing.T) {
	in := func(path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			for i, n := range s.Linux.Namespaces {
				if n.Type == specs.NetworkNamespace {
					s.Linux.Namespaces[i].Path = path
				}
			}
		}
	}
	cases := []struct {
		name    string
		spec    *specs.Spec
		runtime Runtime
		want    string
	}{
		{"of its own", plainSpec(nil), Runtime{}, "--network=none"},
		{"the group's", plainSpec(in("/run/netns/a")), Runtime{}, "--network=sandbox"},
		{"the group's, by the host's stack", plainSpec(in("/run/netns/a")), Runtime{HostStack: true}, "--network=host"},
		{"of its own, whatever the stack", plainSpec(nil), Runtime{HostStack: true}, "--network=none"},
		{"the host's", plainSpec(func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] }), Runtime{}, "--network=host"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, launch, err := suited(c.spec, c.runtime)
			must.NoError(t, err)
			must.SliceContains(t, launch.RuntimeArgs, c.want)
		})
	}
}

// What gVisor is told must not depend on its defaults, and the operator's own words come last.
func TestRunscFlags(t *testing.T) {
	_, launch, err := suited(plainSpec(nil), Runtime{Args: []string{"--platform=kvm"}})
	must.NoError(t, err)
	for _, flag := range []string{"--host-uds=none", "--host-fifo=none", "--overlay2=none", "--file-access=exclusive", "--file-access-mounts=shared", "--oci-seccomp", "--character-device-policy=emulated-only", "--net-raw=false"} {
		must.SliceContains(t, launch.RuntimeArgs, flag)
	}
	must.Eq(t, "--platform=kvm", launch.RuntimeArgs[len(launch.RuntimeArgs)-1])
	must.False(t, strings.Contains(strings.Join(launch.RuntimeArgs, " "), "nvproxy"))
	// A control socket's path: runsc-task.sock below the root.
	must.Less(t, 108, len(filepath.Join(launch.Root("/tasks/a"), "runsc-"+launch.Container()+".sock")))
	other := &record.Launch{RuntimeKind: KindRunsc}
	must.NoError(t, suitRunsc(plainSpec(nil), Runtime{}, other, "/tasks/b"))
	must.NotEq(t, launch.RuntimeRoot, other.RuntimeRoot)
}

func TestRunscSpec(t *testing.T) {
	given := plainSpec(func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "any": "label"}
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
		s.Mounts[3] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/tasks/a/sys", Options: []string{"rbind", "ro", "nosuid"}}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
	})
	got, _, err := suited(given, Runtime{})
	must.NoError(t, err)
	must.MapEmpty(t, got.Annotations, must.Sprint("runtimes take orders from annotations"))
	must.MapEmpty(t, got.Linux.Sysctl)
	var places []string
	for _, m := range got.Mounts {
		places = append(places, m.Destination+" "+m.Type)
	}
	must.Eq(t, []string{"/proc proc", "/dev tmpfs", "/dev/pts devpts", "/sys sysfs"}, places)
	must.Len(t, 5, given.Mounts, must.Sprint("the caller's spec stays as it was"))
	must.MapLen(t, 1, given.Linux.Sysctl)
	must.MapLen(t, 2, given.Annotations)
}

// The image's /tmp is mounted over itself, so that gVisor mounts nothing there, but never what a link of the image's
// leads to.
func TestRunscTmp(t *testing.T) {
	mounted := func(change func(root string, s *specs.Spec)) []string {
		root := t.TempDir()
		got, _, err := suited(plainSpec(func(s *specs.Spec) {
			s.Root.Path = root
			change(root, s)
		}), Runtime{})
		must.NoError(t, err)
		var sources []string
		for _, m := range got.Mounts {
			if m.Destination == "/tmp" {
				sources = append(sources, strings.TrimPrefix(m.Source, root))
			}
		}
		return sources
	}
	must.SliceEmpty(t, mounted(func(string, *specs.Spec) {}))
	must.SliceEmpty(t, mounted(func(root string, _ *specs.Spec) { must.NoError(t, os.Symlink("/root", filepath.Join(root, "tmp"))) }))
	must.Eq(t, []string{"/tmp"}, mounted(func(root string, _ *specs.Spec) { must.NoError(t, os.Mkdir(filepath.Join(root, "tmp"), 0o777)) }))
	must.Eq(t, []string{"tmpfs"}, mounted(func(root string, s *specs.Spec) {
		must.NoError(t, os.Mkdir(filepath.Join(root, "tmp"), 0o777))
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	}), must.Sprint("the job's own"))
}

func TestRunscReadOnlyMounts(t *testing.T) {
	options := []string{"rbind", "ro", "rro", "nosuid"}
	given := plainSpec(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: "/srv", Options: options})
	})
	got, _, err := suited(given, Runtime{})
	must.NoError(t, err)
	must.Eq(t, []string{"rbind", "ro", "nosuid"}, got.Mounts[len(got.Mounts)-1].Options, must.Sprint("gVisor refuses words that it does not know"))
	must.Eq(t, []string{"rbind", "ro", "rro", "nosuid"}, options)
}

func TestRunscDevices(t *testing.T) {
	node := func(path string) specs.Mount {
		return specs.Mount{Destination: path, Source: path, Type: "bind", Options: []string{"bind", "nosuid", "noexec"}}
	}
	cases := []struct {
		name, fail string
		mount      specs.Mount
	}{
		{"a node that is not there", "cannot read device /dev/nvidia77", node("/dev/nvidia77")},
		{"MIG", "gVisor passes on whole GPUs only", node("/dev/nvidia-caps/nvidia-cap1")},
		{"another device", "no devices but NVIDIA GPUs", node("/dev/null")},
		{"mode setting", "no devices but NVIDIA GPUs", node("/dev/nvidia-modeset")},
		{"nvidia alone", "no devices but NVIDIA GPUs", node("/dev/nvidia")},
		{"a driver root", "this host has it at /run/nvidia/dev/nvidia0", specs.Mount{Destination: "/dev/nvidia0", Source: "/run/nvidia/dev/nvidia0", Options: []string{"bind"}}},
		{"for debugging", "", node("/dev/nvidia-uvm-tools")},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, launch, err := suited(plainSpec(func(s *specs.Spec) { s.Mounts = append(s.Mounts, c.mount) }), Runtime{})
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
				return
			}
			must.NoError(t, err)
			must.Len(t, 4, got.Mounts)
			must.SliceEmpty(t, got.Linux.Devices)
			must.SliceNotContains(t, launch.RuntimeArgs, "--nvproxy")
		})
	}
}

// A GPU's nodes become devices of the spec, which is how nvproxy is told to serve them.
func TestRunscGPU(t *testing.T) {
	var linux specs.Linux
	minors := map[string]int{"/dev/nvidiactl": 255, "/dev/nvidia0": 0, "/dev/nvidia12": 12, "/dev/nvidia-uvm": 0}
	stat := func(path string, st *unix.Stat_t) error {
		st.Rdev = unix.Mkdev(195, uint32(minors[path]))
		return nil
	}
	for _, path := range []string{"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia12", "/dev/nvidia-uvm"} {
		must.NoError(t, addRunscDevice(&linux, specs.Mount{Source: path, Destination: path}, stat))
	}
	must.Len(t, 4, linux.Devices)
	for _, d := range linux.Devices {
		must.Eq(t, "c", d.Type)
		must.Eq(t, 195, d.Major)
		must.Eq(t, int64(minors[d.Path]), d.Minor)
	}
	flags := runscFlags(&specs.Spec{Linux: &linux}, Runtime{})
	must.SliceContains(t, flags, "--nvproxy")
	must.SliceContains(t, flags, "--nvproxy-allowed-driver-capabilities=compute,utility")
}

func TestRunscRefusesSysctls(t *testing.T) {
	_, _, err := suited(plainSpec(func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"} }), Runtime{})
	must.ErrorContains(t, err, `cannot set sysctl "kernel.shmmax"`)
}

func TestLimitsOf(t *testing.T) {
	got := limitsOf(&specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: ptr(int64(136)), Access: "rwm"},
			{Allow: true, Type: "c", Major: ptr(int64(195)), Minor: ptr(int64(0)), Access: "rw"},
		},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20)), Swappiness: ptr(uint64(7))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(50_000)), Period: ptr(uint64(100_000)), Cpus: "1-2"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(64))},
	})
	must.Len(t, 3, got.Devices)
	rules := []string{got.Devices[0].CgroupString(), got.Devices[1].CgroupString(), got.Devices[2].CgroupString()}
	must.Eq(t, []string{"a *:* rwm", "c 136:* rwm", "c 195:0 rw"}, rules)
	must.False(t, got.Devices[0].Allow)
	must.True(t, got.Devices[2].Allow)
	must.Eq(t, []int64{64 << 20, 64 << 20, 32 << 20}, []int64{got.Memory, got.MemorySwap, got.MemoryReservation})
	must.Eq(t, 7, *got.MemorySwappiness)
	must.Eq(t, 1024, got.CpuShares)
	must.Positive(t, got.CpuWeight, must.Sprint("cgroup v2 knows weights only"))
	must.Eq(t, 50_000, got.CpuQuota)
	must.Eq(t, 100_000, got.CpuPeriod)
	must.Eq(t, "1-2", got.CpusetCpus)
	must.Eq(t, 64, *got.PidsLimit)
	must.NotNil(t, limitsOf(nil))
}
