package driver

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// share grants a share of a GPU as the device plugin does.
func share(cfg *drivers.TaskConfig, namespace, uuid, number string) {
	cfg.Namespace = namespace
	cfg.DeviceEnv = map[string]string{"PANGAEA_GPU_" + strings.ReplaceAll(uuid, "-", "_") + "__" + number: uuid}
}

// Tasks of one namespace take turns on a GPU; those of another come when the last of these has gone, whatever became of
// the plugin that started them meanwhile.
func TestRootSharedGPU(t *testing.T) {
	if gvisor() {
		t.Skip("gVisor finds GPUs in the host's own /dev only")
	}
	root, uuid, other := gpuHost.root, gpuHost.gpus[1].UUID, gpuHost.gpus[2].UUID
	w := newWorld(t, func(c *Config) { c.DriverRoot = root })
	start := func(t *testing.T, namespace, uuid, number string) (*drivers.TaskConfig, *drivers.TaskHandle, error) {
		cfg := w.prepare(t, sh("sleep 600"), false)
		share(cfg, namespace, uuid, number)
		h, _, err := w.plugin().StartTask(cfg)
		return cfg, h, err
	}
	first, handle, err := start(t, "team", uuid, "0")
	must.NoError(t, err)
	second, _, err := start(t, "team", uuid, "1")
	must.NoError(t, err, must.Sprint("its own namespace"))

	refused := func(t *testing.T) {
		_, _, err := start(t, "rival", uuid, "2")
		must.ErrorContains(t, err, "cannot share GPU "+uuid+": a task of another namespace has a share of it")
		must.ErrorContains(t, err, "allow_cross_namespace_gpus = true")
		must.StrNotContains(t, err.Error(), "team")
		must.True(t, structs.IsRecoverable(err))
	}
	refused(t)
	elsewhere, _, err := start(t, "rival", other, "0")
	must.NoError(t, err, must.Sprint("another GPU"))
	must.NoError(t, w.driver.DestroyTask(elsewhere.ID, true))

	must.NoError(t, w.driver.DestroyTask(second.ID, true))
	w.restart(t)
	refused(t) // before anybody has recovered the first
	must.NoError(t, os.RemoveAll(w.config.HoldsDir), must.Sprint("a task of a driver that knew of no holds"))
	must.NoError(t, w.plugin().RecoverTask(handle))
	refused(t)

	must.NoError(t, w.driver.DestroyTask(first.ID, true))
	last, _, err := start(t, "rival", uuid, "2")
	must.NoError(t, err)

	w.config.AllowCrossNamespaceGPUs = true
	w.restart(t)
	guest, _, err := start(t, "team", uuid, "0")
	must.NoError(t, err, must.Sprint("allowed by the operator"))
	for _, cfg := range []*drivers.TaskConfig{last, guest} {
		must.NoError(t, w.driver.DestroyTask(cfg.ID, true))
	}
}

// Nomad asks the device plugin for each device block by itself; a task has one share of a GPU all the same.
func TestRootTwoShares(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DriverRoot = gpuHost.root })
	cfg := w.prepare(t, sh("true"), false)
	share(cfg, "team", gpuHost.gpus[0].UUID, "0")
	for key, uuid := range maps.Clone(cfg.DeviceEnv) {
		cfg.DeviceEnv[strings.TrimSuffix(key, "0")+"1"] = uuid
	}
	_, _, err := w.plugin().StartTask(cfg)
	must.ErrorContains(t, err, "cannot give the task two shares of one GPU")
	must.False(t, structs.IsRecoverable(err))
}

// A share by MPS is refused for good, by what the device plugin says. What the job itself says of MPS is nothing: neither a reason to
// refuse it nor a way to a control daemon.
func TestRootMPS(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DriverRoot = gpuHost.root })
	pipes := t.TempDir()
	cfg := w.prepare(t, sh("true"), false)
	share(cfg, "team", gpuHost.gpus[0].UUID, "0")
	cfg.DeviceEnv["CUDA_MPS_PIPE_DIRECTORY"] = pipes
	_, _, err := w.plugin().StartTask(cfg)
	must.ErrorContains(t, err, "cannot run on a GPU that is shared by MPS: its server serves one user ID at a time")
	must.ErrorContains(t, err, "Ask for a time-sliced share, a MIG device, or a whole GPU")
	must.False(t, structs.IsRecoverable(err))

	if gvisor() {
		return // it finds GPUs in the host's own /dev only
	}
	claim := func(c *drivers.TaskConfig) {
		share(c, "team", gpuHost.gpus[0].UUID, "0")
		c.Env["CUDA_MPS_PIPE_DIRECTORY"] = pipes
	}
	w.run(t, sh("ls $CUDA_MPS_PIPE_DIRECTORY 2>/dev/null || echo nothing there; ls -d /dev/nvidia?"), claim, "nothing there\n/dev/nvidia0\n")
}
