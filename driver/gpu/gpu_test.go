package gpu

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

func TestGrants(t *testing.T) {
	cases := []struct {
		name string
		env  map[string]string
		want []Grant
		fail string
	}{
		{name: "none", env: map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}},
		{name: "two, sorted", env: map[string]string{"PANGAEA_GPU_GPU_b": "GPU-b", "PANGAEA_GPU_GPU_a": "GPU-a"}, want: []Grant{{"GPU-a", "GPU-a"}, {"GPU-b", "GPU-b"}}},
		{name: "MIG", env: map[string]string{"PANGAEA_GPU_MIG_a_1": "MIG-a-1"}, want: []Grant{{"MIG-a-1", "MIG-a-1"}}},
		{name: "shares", env: map[string]string{"PANGAEA_GPU_GPU_a__11": "GPU-a", "PANGAEA_GPU_MIG_b_1__0": "MIG-b-1"}, want: []Grant{{"GPU-a::11", "GPU-a"}, {"MIG-b-1::0", "MIG-b-1"}}},
		{name: "two shares of one GPU", env: map[string]string{"PANGAEA_GPU_GPU_a__0": "GPU-a", "PANGAEA_GPU_GPU_a__1": "GPU-a"}, fail: "cannot give the task two shares of one GPU, GPU-a: ask for one share, in one device block"},
		{name: "a share and the whole", env: map[string]string{"PANGAEA_GPU_GPU_a": "GPU-a", "PANGAEA_GPU_GPU_a__1": "GPU-a"}, fail: "two shares of one GPU"},
		{name: "a share with no number", env: map[string]string{"PANGAEA_GPU_GPU_a__": "GPU-a"}, fail: "not as the device plugin writes it"},
		{name: "a share of another", env: map[string]string{"PANGAEA_GPU_GPU_a__1": "GPU-b"}, fail: "not as the device plugin writes it"},
		{name: "a longer name", env: map[string]string{"PANGAEA_GPU_GPU_a_1": "GPU-a"}, fail: "not as the device plugin writes it"},
		{name: "a share by MPS", env: map[string]string{"PANGAEA_GPU_GPU_a__1": "GPU-a", "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"}, fail: "cannot run on a GPU that is shared by MPS"},
		{name: "MPS without a GPU of ours", env: map[string]string{"CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"}},
		{name: "all", env: map[string]string{"PANGAEA_GPU_all": "all"}, fail: "not as the device plugin writes it"},
		{name: "key and value differ", env: map[string]string{"PANGAEA_GPU_GPU_a": "GPU-b"}, fail: "not as the device plugin writes it"},
		{name: "a list", env: map[string]string{"PANGAEA_GPU_GPU_a,GPU_b": "GPU-a,GPU-b"}, fail: "not as the device plugin writes it"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Grants(c.env)
			if c.fail != "" {
				must.ErrorContains(t, err, c.fail)
				return
			}
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
}

func TestNoGrantTouchesNothing(t *testing.T) {
	i := New(Config{Dir: filepath.Join(t.TempDir(), "none")})
	i.newGenerator = func(Config) (generator, error) { panic("asked without a grant") }
	edits, err := i.Edits(nil)
	must.NoError(t, err)
	must.Eq(t, Edits{}, edits)
}

func TestNodeNames(t *testing.T) {
	cases := map[string][2]bool{
		"nvidia0": {false, true}, "nvidia12": {false, true}, "nvidiactl": {true, false}, "nvidia-uvm": {true, false},
		"nvidia-uvm-tools": {true, false}, "nvidia-caps/nvidia-cap21": {false, true}, "nvidia-modeset": {}, "nvidia-drm": {},
		"nvidia-nvswitch0": {}, "nvidia-nvswitchctl": {}, "dri/card0": {}, "dri/renderD128": {}, "nvidia-caps": {}, "nvidia0/../mem": {},
	}
	for name, want := range cases {
		must.Eq(t, want, [2]bool{controlNode(name), deviceNode(name)}, must.Sprint(name))
	}
}

func TestForeignProc(t *testing.T) {
	proc := t.TempDir()
	for bus, text := range map[string]string{"0000:01:00.0": "Model: \t X\nDevice Minor: \t 0\n", "0000:02:00.0": "Device Minor: \t 1\n", "0000:03:00.0": "?"} {
		dir := filepath.Join(proc, "driver/nvidia/gpus", bus)
		must.NoError(t, os.MkdirAll(dir, 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(dir, "information"), []byte(text), 0o644))
	}
	got := foreignProc(proc, []Device{{Target: "/dev/nvidia1"}})
	must.Eq(t, []string{"/proc/driver/nvidia/gpus/0000:01:00.0", "/proc/driver/nvidia/gpus/0000:03:00.0"}, got)
}

// TestRootSimulatedDriver runs NVIDIA's generator over the simulated driver: the path that real machines take.
func TestRootSimulatedDriver(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live", "nvmlsim.state")
	must.NoError(t, os.MkdirAll(filepath.Dir(live), 0o755))
	state := nvmlsim.Host("gpu-test", nvmlsim.H100SXM(), 3)
	must.NoError(t, nvmlsim.WriteState(live, state))
	root := filepath.Join(dir, "root")
	_, err := nvmlsim.MakeDriverRoot(context.Background(), root, live, state)
	must.NoError(t, err)

	i := New(Config{Root: root, Dir: filepath.Join(dir, "prepared")})
	uuid := state.GPUs[1].UUID
	edits, err := i.Edits([]string{uuid})
	must.NoError(t, err)

	var targets []string
	for _, d := range edits.Devices {
		targets = append(targets, d.Target)
		must.Eq(t, filepath.Join(root, d.Target), d.Source)
	}
	must.Eq(t, []string{"/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl", "/dev/nvidia1"}, targets)
	must.Eq(t, int64(195), edits.Devices[3].Major)
	must.Eq(t, int64(1), edits.Devices[3].Minor)

	for _, name := range []string{"lib64/libcuda.so.1", "lib64/libcuda.so", "lib/libcuda.so.1", "lib64/libnvidia-ml.so.1", "bin/nvidia-smi"} {
		info, err := os.Stat(filepath.Join(edits.Driver, name))
		must.NoError(t, err)
		must.Eq(t, os.FileMode(0o755), info.Mode().Perm(), must.Sprint(name))
	}

	t.Run("remembered", func(t *testing.T) {
		i.newGenerator = func(Config) (generator, error) { panic("asked again") }
		again, err := i.Edits([]string{uuid})
		must.NoError(t, err)
		must.Eq(t, edits, again)
	})
	t.Run("unknown GPU", func(t *testing.T) {
		i.newGenerator = newToolkit
		_, err := i.Edits([]string{"GPU-00000000-dead-beef-0000-000000000000"})
		must.ErrorContains(t, err, "fallen off the bus")
	})
	t.Run("a node that went is noticed", func(t *testing.T) {
		must.NoError(t, os.Remove(filepath.Join(root, "dev/nvidia1")))
		_, err := i.Edits([]string{uuid})
		must.Error(t, err)
	})
}

func TestNoDriver(t *testing.T) {
	_, err := New(Config{Root: t.TempDir(), Dir: t.TempDir()}).Edits([]string{"GPU-a"})
	must.ErrorContains(t, err, "is it installed?")
}
