package driver

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/driver/sandbox"
)

func TestRootVolumes(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowVolumes = true })
	host := filepath.Join(w.state, "tmp", "volume")
	must.NoError(t, os.Mkdir(host, 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(host, "file"), []byte("data\n"), 0o600))
	nomads := func(c *drivers.TaskConfig) {
		c.Mounts = []*drivers.MountConfig{{HostPath: host, TaskPath: "/vol", Readonly: true}}
	}
	// The file is root's and private: the task's root sees it as its own.
	w.run(t, sh("cat /vol/file; stat -c %u /vol/file; touch /vol/x || echo read-only"), nomads, "data\n0\nread-only\n")

	job := sh("cat /a/file; touch /a/made && echo written; cat /b/file; touch /b/x || echo read-only")
	job.Volumes = []string{host + ":/b:ro"}
	job.Mounts = []JobMount{{Type: "bind", Source: host, Target: "/a"}}
	w.run(t, job, nil, "data\nwritten\ndata\nread-only\n")
	_, err := os.Stat(filepath.Join(host, "made"))
	must.NoError(t, err)
}

// TestRootReadOnlyVolumeIsSoToItsDepth mounts a volume in which something else is mounted, as on a host whose /srv/data is
// a disk of its own.
func TestRootReadOnlyVolumeIsSoToItsDepth(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowVolumes = true })
	host := filepath.Join(w.state, "tmp", "volume")
	below := filepath.Join(host, "below")
	must.NoError(t, os.MkdirAll(below, 0o755))
	must.NoError(t, unix.Mount("tmpfs", below, "tmpfs", 0, "mode=1777,size=1m"))
	defer func() { must.NoError(t, unix.Unmount(below, unix.MNT_DETACH)) }()
	const script = "touch /vol/x 2>&- || echo read-only; touch /vol/below/x 2>&- || echo read-only"
	w.run(t, sh(script), func(c *drivers.TaskConfig) {
		c.Mounts = []*drivers.MountConfig{{HostPath: host, TaskPath: "/vol", Readonly: true}}
	}, "read-only\nread-only\n")

	job := sh(script)
	job.Mounts = []JobMount{{Type: "bind", Source: host, Target: "/vol", ReadOnly: true}}
	w.run(t, job, nil, "read-only\nread-only\n")
	_, err := os.Stat(filepath.Join(below, "x"))
	must.ErrorIs(t, err, os.ErrNotExist)
}

// TestRootStopWhilePulling stops a task whose registry does not answer: the start ends at once and leaves nothing.
func TestRootStopWhilePulling(t *testing.T) {
	asked := make(chan struct{}, 16)
	release := make(chan struct{})
	stalled := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer stalled.Close()
	defer close(release)
	registry := strings.TrimPrefix(stalled.URL, "http://")
	w := newWorld(t, func(c *Config) { c.InsecureRegistries = []string{registry} })
	cfg := w.prepare(t, JobConfig{Image: registry + "/app:1"}, false)
	failed := make(chan error, 1)
	go func() {
		_, _, err := w.driver.StartTask(cfg)
		failed <- err
	}()
	<-asked
	began := time.Now()
	must.NoError(t, w.harness.StopTask(cfg.ID, time.Minute, ""))
	err := <-failed
	must.ErrorContains(t, err, "cancelled")
	must.False(t, structs.IsRecoverable(err))
	must.Less(t, 30*time.Second, time.Since(began))
}

func TestResources(t *testing.T) {
	cfg := func(change func(*drivers.LinuxResources, *structs.AllocatedTaskResources)) *drivers.TaskConfig {
		l := &drivers.LinuxResources{CPUShares: 500, MemoryLimitBytes: 512 << 20, PercentTicks: 0.25, CpusetCpus: "0-1"}
		n := &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 256, MemoryMaxMB: 512}}
		if change != nil {
			change(l, n)
		}
		return &drivers.TaskConfig{Resources: &drivers.Resources{LinuxResources: l, NomadResources: n}}
	}
	percent := int64(10)
	unsigned := uint64(10)
	base := sandbox.Resources{CPUShares: 500, MemoryBytes: 512 << 20, MemoryReservation: 256 << 20, Pids: 4096}
	with := func(change func(*sandbox.Resources)) sandbox.Resources { r := base; change(&r); return r }
	cases := []struct {
		name string
		cfg  *drivers.TaskConfig
		job  JobConfig
		v2   bool
		want sandbox.Resources
	}{
		{"shares, memory_max over memory", cfg(nil), JobConfig{}, false, base},
		{"reserved cores on v2", cfg(nil), JobConfig{}, true, with(func(r *sandbox.Resources) { r.Cpus = "0-1" })},
		{"fewer processes", cfg(nil), JobConfig{PidsLimit: 7}, false, with(func(r *sandbox.Resources) { r.Pids = 7 })},
		{"hard limit", cfg(nil), JobConfig{CPUHardLimit: true}, false, with(func(r *sandbox.Resources) {
			r.CPUPeriod, r.CPUQuota = 100_000, int64(25_000*hostCPUs())
		})},
		{"memory from Nomad's own figures", cfg(func(l *drivers.LinuxResources, _ *structs.AllocatedTaskResources) { l.MemoryLimitBytes = 0 }), JobConfig{}, false, base},
		{"hard limit over another period", cfg(nil), JobConfig{CPUHardLimit: true, CPUPeriod: 20_000}, false, with(func(r *sandbox.Resources) {
			r.CPUPeriod, r.CPUQuota = 20_000, int64(5_000*hostCPUs())
		})},
		{"as much as the host has", cfg(func(_ *drivers.LinuxResources, n *structs.AllocatedTaskResources) { n.Memory.MemoryMaxMB = -1 }), JobConfig{}, false, with(func(r *sandbox.Resources) { r.MemoryBytes = 8 << 30 })},
		{"swap", cfg(nil), JobConfig{MemorySwap: "1GiB", Swappiness: &percent}, false, with(func(r *sandbox.Resources) {
			r.MemorySwapBytes, r.Swappiness = 1<<30, &unsigned
		})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := resources(c.cfg, &c.job, newSettings(Config{}), &sandbox.Host{CgroupV2: c.v2, MemoryBytes: 8 << 30})
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
	percent = 101
	for name, bad := range map[string]JobConfig{
		"memory_swap":       {MemorySwap: "1MiB"},
		"write it like":     {MemorySwap: "much"},
		"memory_swappiness": {Swappiness: &percent},
		"cpu_cfs_period":    {CPUPeriod: 2_000_000},
		"pids_limit":        {PidsLimit: -1},
	} {
		_, err := resources(cfg(nil), &bad, newSettings(Config{}), &sandbox.Host{MemoryBytes: 8 << 30})
		must.ErrorContains(t, err, name)
	}
	_, err := resources(&drivers.TaskConfig{}, &JobConfig{}, newSettings(Config{}), &sandbox.Host{})
	must.Error(t, err)
}

func TestParseVolume(t *testing.T) {
	for text, want := range map[string]sandbox.Bind{
		"/a:/b":    {Source: "/a", Target: "/b", Mapped: true},
		"/a:/b:ro": {Source: "/a", Target: "/b", ReadOnly: true, Mapped: true},
		"/a:/b:rw": {Source: "/a", Target: "/b", Mapped: true},
	} {
		got, err := parseVolume(text)
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	for _, bad := range []string{"", "/a", "a:/b", "local/x:/b", "/a:/b:suid", "/a:/b:ro:x"} {
		_, err := parseVolume(bad)
		must.Error(t, err, must.Sprint(bad))
	}
}
