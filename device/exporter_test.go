package device

import (
	"fmt"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

func TestMetricsTellTheTask(t *testing.T) {
	const alloc = "b2a1c3d4-0000-1111-2222-333344445555"
	s := nvmlsim.Host("metrics", nvmlsim.L4(), 2)
	s.GPUs[0].Processes = []nvmlsim.Process{{Kind: "compute", PID: 77}}
	s.GPUs[0].Set("UtilizationRates", 93, 12)
	s.GPUs[1].Set("RemappedRows", 0, 1, 1, 0)
	r := newRig(t, s)
	r.monitor.host.Proc = t.TempDir()
	must.NoError(t, os.MkdirAll(r.monitor.host.Proc+"/77", 0o755))
	must.NoError(t, os.WriteFile(r.monitor.host.Proc+"/77/comm", []byte("python\n"), 0o644))
	must.NoError(t, os.WriteFile(r.monitor.host.Proc+"/77/cgroup", []byte("3:devices:/nomad/"+alloc+".train\n"), 0o644))
	r.hold("train", s.GPUs[0].UUID)
	r.round()
	w := httptest.NewRecorder()
	r.monitor.metrics(w, nil)
	text := w.Body.String()
	must.StrContains(t, text, `DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="`+s.GPUs[0].UUID+`",modelName="NVIDIA L4",pci_bus_id="0000:1b:00.0",device="nvidia0",DCGM_FI_DRIVER_VERSION="570.86.15",alloc_id="`+alloc+`",task="train",namespace="team",job_id="model"} 93`)
	must.StrContains(t, text, `pangaea_gpu_healthy{gpu="1",UUID="`+s.GPUs[1].UUID+`",modelName="NVIDIA L4",pci_bus_id="0000:2b:00.0",device="nvidia1",DCGM_FI_DRIVER_VERSION="570.86.15",reason="row remap pending: reset the GPU"} 0`)
}

// Of a shared GPU each share has the task that holds it, and no other share has its process.
func TestMetricsOfShares(t *testing.T) {
	s := nvmlsim.Host("shares", nvmlsim.L4(), 1)
	s.GPUs[0].Processes = []nvmlsim.Process{{Kind: "compute", PID: 77}}
	r := newRig(t, s, func(set *settings) { set.replicas = 3 })
	r.monitor.host.Proc = t.TempDir()
	process(t, r.monitor.host.Proc, 77, "python", taskCgroup)
	r.hold("train", s.GPUs[0].UUID+"::1")
	r.round()
	w := httptest.NewRecorder()
	r.monitor.metrics(w, nil)
	for n, labels := range []string{"", `,alloc_id="` + someAlloc + `",task="train",namespace="team",job_id="model"`, ""} {
		must.StrContains(t, w.Body.String(), fmt.Sprintf(`pangaea_gpu_healthy{gpu="0",UUID="%s::%d",modelName="NVIDIA L4 shared",pci_bus_id="0000:1b:00.0",device="nvidia0",DCGM_FI_DRIVER_VERSION="570.86.15"%s} 1`, s.GPUs[0].UUID, n, labels))
	}
}

// A MIG instance under another driver is its own processes' task's, not its neighbour's; and it tells its own part of BAR1.
func TestMIGInstancesTellTheirOwn(t *testing.T) {
	s := nvmlsim.Host("mig tasks", nvmlsim.A100PCIe40GB(), 1)
	s.GPUs[0].Set("MigMode", 1, 1)
	s.GPUs[0].Processes = []nvmlsim.Process{{Kind: "compute", PID: 77}}
	s.GPUs[0].MIG = []nvmlsim.MIG{
		{UUID: "MIG-a", Profile: "1g.5gb", MemoryMiB: 4864, GI: 7, BAR1MiB: 8191},
		{UUID: "MIG-b", Profile: "1g.5gb", MemoryMiB: 4864, GI: 8, BAR1MiB: 8191, Processes: s.GPUs[0].Processes},
	}
	r := newRig(t, s)
	r.monitor.host.Proc = t.TempDir()
	process(t, r.monitor.host.Proc, 77, "python", taskCgroup)
	must.Eq(t, "8191MiB", attributesOf(t, r)["bar1"])
	tasks := make(map[string]string)
	for _, u := range r.monitor.published.Load().units {
		tasks[u.id] = u.task.AllocID
	}
	must.Eq(t, map[string]string{"MIG-a": "", "MIG-b": someAlloc}, tasks)
}
