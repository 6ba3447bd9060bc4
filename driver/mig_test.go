package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/e2e/nvmlsim"
)

// TestRootMIG grants MIG instances, in a mount namespace of its own, where the kernel's list of their capabilities can be
// replaced: NVIDIA's generator reads it from the host's /proc alone.
func TestRootMIG(t *testing.T) {
	if gvisor() {
		t.Skip("gVisor finds GPUs in the host's own /dev only")
	}
	if os.Getenv(hostTest) == t.Name() {
		migInNamespace(t)
		return
	}
	out, err := again(t, t.Name(), syscall.CLONE_NEWNS).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
}

// capsMajor is one that the simulated nvidia-caps has; the real one takes a free one.
const capsMajor = 509

// listCaps stands in for the kernel's list: minors by capability. The second /proc is whole, without which the kernel lets no user
// namespace mount one.
func listCaps(t *testing.T, list string) {
	t.Helper()
	must.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	whole := t.TempDir()
	must.NoError(t, unix.Mount("proc", whole, "proc", 0, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(whole, unix.MNT_DETACH)) })
	must.NoError(t, unix.Mount("tmpfs", "/proc/driver", "tmpfs", 0, "mode=755"))
	must.NoError(t, os.Mkdir("/proc/driver/nvidia-caps", 0o755))
	must.NoError(t, os.WriteFile("/proc/driver/nvidia-caps/mig-minors", []byte(list), 0o444))
}

// migInNamespace splits one of three GPUs in two: a task with one half has that half's capabilities and what all tasks with GPUs have,
// and may open nothing of the other half, of other GPUs, or what configures and watches MIG.
func migInNamespace(t *testing.T) {
	t.Helper()
	host, err := simulate()
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(host.dir)) })
	split := host.gpus[1]
	split.Set("MigMode", 1, 1)
	split.Set("MaxMigDeviceCount", 7)
	split.MIG = []nvmlsim.MIG{
		{UUID: "MIG-5e1f0000-0000-0000-0000-000000000001", Profile: "1g.5gb", MemoryMiB: 4864, GI: 7},
		{UUID: "MIG-5e1f0000-0000-0000-0000-000000000002", Profile: "1g.5gb", MemoryMiB: 4864, GI: 8},
	}
	must.NoError(t, nvmlsim.WriteState(filepath.Join(host.dir, "nvmlsim.state"), nvmlsim.State{GPUs: host.gpus}))
	listCaps(t, "config 1\nmonitor 2\ngpu1/gi7/access 66\ngpu1/gi7/ci0/access 67\ngpu1/gi8/access 75\ngpu1/gi8/ci0/access 76\n")
	caps := filepath.Join(host.root, "dev", "nvidia-caps")
	must.NoError(t, os.Mkdir(caps, 0o755))
	for _, minor := range []uint32{1, 2, 66, 67, 75, 76} {
		must.NoError(t, unix.Mknod(filepath.Join(caps, fmt.Sprintf("nvidia-cap%d", minor)), unix.S_IFCHR|0o666, int(unix.Mkdev(capsMajor, minor))))
	}

	w := newWorld(t, func(c *Config) { c.DriverRoot = host.root })
	own := split.MIG[1].UUID
	look := sh("cd /dev; ls -d nvidia* nvidia-caps/*; echo $NVIDIA_VISIBLE_DEVICES")
	w.run(t, look, func(c *drivers.TaskConfig) { grant(c, own) },
		"nvidia-caps\nnvidia-caps/nvidia-cap75\nnvidia-caps/nvidia-cap76\nnvidia-uvm\nnvidia-uvm-tools\nnvidia1\nnvidiactl\n"+own+"\n")

	cfg := w.task(t, sh("sleep 600"))
	grant(cfg, own)
	w.start(t, cfg)
	group := filepath.Join("/sys/fs/cgroup/devices", w.parent, cfg.AllocID+".web")
	if cgroupV2() {
		group = cfg.Resources.LinuxResources.CpusetCgroupPath
	}
	for node, allowed := range map[string]bool{
		"nvidia1": true, "nvidia-caps/nvidia-cap75": true, "nvidia-caps/nvidia-cap76": true,
		"nvidia0": false, "nvidia2": false, "nvidia-caps/nvidia-cap66": false, "nvidia-caps/nvidia-cap67": false,
		"nvidia-caps/nvidia-cap1": false, "nvidia-caps/nvidia-cap2": false,
	} {
		out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf("echo $$ > %s/cgroup.procs && : < %s/dev/%s", group, host.root, node)).CombinedOutput()
		must.Error(t, err, must.Sprint("there is no such hardware"))
		must.Eq(t, !allowed, strings.Contains(string(out), "not permitted"), must.Sprint(node, string(out)))
		must.Eq(t, allowed, strings.Contains(string(out), "No such device"), must.Sprint(node, string(out)))
	}
	must.NoError(t, w.driver.DestroyTask(cfg.ID, true))
}
