package driver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"pangaea/e2e/nvmlsim"
)

// simulated is a driver installation with three GPUs. There is one for all tests: a process that has bound NVML's
// symbols once keeps that library for good.
type simulated struct {
	dir, root string
	gpus      []*nvmlsim.GPU
}

func simulate() (*simulated, error) {
	dir, err := os.MkdirTemp("/var/tmp", "pangaea-gpus-")
	if err != nil {
		return nil, err
	}
	state := nvmlsim.Host("driver-test", nvmlsim.L40S(), 3)
	s := &simulated{dir: dir, root: filepath.Join(dir, "root"), gpus: state.GPUs}
	live := filepath.Join(dir, "nvmlsim.state")
	err = nvmlsim.WriteState(live, state)
	if err != nil {
		return s, err
	}
	_, err = nvmlsim.MakeDriverRoot(context.Background(), s.root, live, state)
	return s, err
}

func grant(cfg *drivers.TaskConfig, uuids ...string) {
	cfg.DeviceEnv = map[string]string{}
	for _, u := range uuids {
		cfg.DeviceEnv["PANGAEA_GPU_"+strings.ReplaceAll(u, "-", "_")] = u
	}
}

func TestRootGPU(t *testing.T) {
	root, gpus := gpuHost.root, gpuHost.gpus
	w := newWorld(t, func(c *Config) { c.DriverRoot = root })
	// What a template with env = true can do: the task's environment says "all", the grant does not.
	forge := func(c *drivers.TaskConfig) {
		c.Env["NVIDIA_VISIBLE_DEVICES"] = "all"
		c.Env["PANGAEA_GPU_"+strings.ReplaceAll(gpus[0].UUID, "-", "_")] = gpus[0].UUID
	}
	look := sh("cd /dev; ls -d nvidia*; echo $NVIDIA_VISIBLE_DEVICES; env | grep -c PANGAEA_GPU_")
	cases := []struct {
		name   string
		job    JobConfig
		change func(*drivers.TaskConfig)
		out    string
	}{
		{"one granted, all forged", look, func(c *drivers.TaskConfig) { forge(c); grant(c, gpus[1].UUID) }, "nvidia-uvm\nnvidia-uvm-tools\nnvidia1\nnvidiactl\n" + gpus[1].UUID + "\n0\n"},
		{"two granted", look, func(c *drivers.TaskConfig) { grant(c, gpus[2].UUID, gpus[0].UUID) }, "nvidia-uvm\nnvidia-uvm-tools\nnvidia0\nnvidia2\nnvidiactl\n" + sorted(gpus[0].UUID, gpus[2].UUID) + "\n0\n"},
		{"none granted, all forged", look, forge, "void\n0\n"},
		{
			"driver's libraries", sh("echo $LD_LIBRARY_PATH; cat /usr/local/nvidia/lib/libcuda.so.1 | head -c 4 | tail -c 3; echo; touch /usr/local/nvidia/lib64/x || echo read-only"), func(c *drivers.TaskConfig) { grant(c, gpus[0].UUID) },
			"/usr/local/nvidia/lib:/usr/local/nvidia/lib64\nELF\nread-only\n",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// gVisor passes on calls of driver versions that it knows, to nodes in the host's own /dev.
			if w.refusedByGVisor(t, c.job, c.change, map[bool]string{true: "cannot give the task its GPUs"}[c.name != "none granted, all forged"]) {
				return
			}
			w.run(t, c.job, c.change, c.out)
		})
	}
}

func sorted(a, b string) string {
	if a > b {
		a, b = b, a
	}
	return a + "," + b
}

// TestRootGPUCgroup puts a process of the host, which has every node in reach, into a task's device cgroup: the kernel
// must let it open the granted GPU (which then says that no driver is loaded) and no other.
func TestRootGPUCgroup(t *testing.T) {
	if gvisor() {
		t.Skip("gVisor finds GPUs in the host's own /dev only")
	}
	root, gpus := gpuHost.root, gpuHost.gpus
	w := newWorld(t, func(c *Config) { c.DriverRoot = root })
	cfg := w.task(t, sh("sleep 600"))
	grant(cfg, gpus[1].UUID)
	w.start(t, cfg)
	group := filepath.Join("/sys/fs/cgroup/devices", w.parent, cfg.AllocID+".web")
	if cgroupV2() {
		group = cfg.Resources.LinuxResources.CpusetCgroupPath
	}
	cases := []struct {
		node    string
		allowed bool
	}{{"nvidia1", true}, {"nvidiactl", true}, {"nvidia-uvm", true}, {"nvidia0", false}, {"nvidia2", false}}
	for _, c := range cases {
		t.Run(c.node, func(t *testing.T) {
			script := fmt.Sprintf("echo $$ > %s/cgroup.procs && : < %s/dev/%s", group, root, c.node)
			out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput()
			must.Error(t, err, must.Sprint("there is no such hardware"))
			must.Eq(t, !c.allowed, strings.Contains(string(out), "not permitted"), must.Sprint(string(out)))
			must.Eq(t, c.allowed, strings.Contains(string(out), "No such device"), must.Sprint(string(out)))
		})
	}
}

func TestRootGPULost(t *testing.T) {
	root, gpus := gpuHost.root, gpuHost.gpus
	w := newWorld(t, func(c *Config) { c.DriverRoot = root })
	node := filepath.Join(root, "dev/nvidia2")
	must.NoError(t, os.Remove(node))
	t.Cleanup(func() { must.NoError(t, unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(195, 2)))) })
	cfg := w.prepare(t, sh("true"), false)
	grant(cfg, gpus[2].UUID)
	_, _, err := w.harness.StartTask(cfg)
	must.ErrorContains(t, err, "cannot give the task its GPUs")
}
