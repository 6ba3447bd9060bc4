package nvmlsim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
	"github.com/shoenig/test/must"
)

// A process binds NVML's functions once, to the first library that it loads, so all tests share one.
var shared string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nvmlsim-")
	if err == nil {
		shared, err = Build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// open gives the library a state and initialises it as any program would.
func open(t *testing.T, s State) (lib nvml.Interface, state string) {
	t.Helper()
	state = filepath.Join(filepath.Dir(shared), StateFile)
	must.NoError(t, WriteState(state, s))
	lib = nvml.New(nvml.WithLibraryPath(shared))
	must.Eq(t, nvml.SUCCESS, lib.Init())
	t.Cleanup(func() { lib.Shutdown() })
	return lib, state
}

func TestReadings(t *testing.T) {
	lib, _ := open(t, Host("a", H100SXM(), 2))
	version, ret := lib.SystemGetDriverVersion()
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, "570.86.15", version)
	n, _ := lib.DeviceGetCount()
	must.Eq(t, 2, n)
	d, ret := lib.DeviceGetHandleByIndex(1)
	must.Eq(t, nvml.SUCCESS, ret)
	name, _ := d.GetName()
	must.Eq(t, "NVIDIA H100 80GB HBM3", name)
	pci, _ := d.GetPciInfo()
	must.Eq(t, 0x2b, pci.Bus)
	mem, _ := d.GetMemoryInfo_v2()
	must.Eq(t, uint64(81559*mib), mem.Total)
	must.Eq(t, uint64(600*mib), mem.Reserved)
	clock, _ := d.GetMaxClockInfo(nvml.CLOCK_MEM)
	must.Eq(t, 2619, clock)
	major, minor, _ := d.GetCudaComputeCapability()
	must.Eq(t, [2]int{9, 0}, [2]int{major, minor})
	link, _ := d.GetNvLinkState(17)
	must.Eq(t, nvml.FEATURE_ENABLED, link)
	_, ret = d.GetNvLinkState(18)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = d.GetHostname_v1()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint("a function that is not simulated must exist"))
}

func TestStateChangesUnderALoadedLibrary(t *testing.T) {
	s := Host("a", L40S(), 2)
	lib, path := open(t, s)
	first, _ := lib.DeviceGetHandleByIndex(0)
	second, _ := lib.DeviceGetHandleByIndex(1)
	steps := []struct {
		name   string
		change func()
		want   nvml.Return
	}{
		{"untouched", func() {}, nvml.SUCCESS},
		{"one call fails", func() { s.GPUs[0].Faults = []Fault{{Call: "nvmlDeviceGetTemperature", Code: 999}} }, nvml.ERROR_UNKNOWN},
		{"off the bus", func() { s.GPUs[0].Faults = nil; s.GPUs[0].Lose() }, nvml.ERROR_GPU_IS_LOST},
		{"back", func() { s.GPUs[0].Faults = nil }, nvml.SUCCESS},
		{"not supported", func() { s.GPUs[0].Unset("Temperature.0") }, nvml.ERROR_NOT_SUPPORTED},
		{"driver mismatch", func() { s.Faults = []Fault{{Call: "*", Code: 18}} }, nvml.ERROR_LIB_RM_VERSION_MISMATCH},
	}
	for _, step := range steps {
		step.change()
		must.NoError(t, WriteState(path, s))
		_, ret := first.GetTemperature(nvml.TEMPERATURE_GPU)
		must.Eq(t, step.want, ret, must.Sprint(step.name))
		if s.Faults == nil {
			_, ret = second.GetTemperature(nvml.TEMPERATURE_GPU)
			must.Eq(t, nvml.SUCCESS, ret, must.Sprint("the other GPU: ", step.name))
		}
	}
	must.NoError(t, os.Remove(path))
	_, ret := first.GetTemperature(nvml.TEMPERATURE_GPU)
	must.Eq(t, nvml.ERROR_DRIVER_NOT_LOADED, ret)
}

func TestDelayHoldsOnlyItsOwnCall(t *testing.T) {
	s := Host("a", L4(), 2)
	s.GPUs[0].Faults = []Fault{{Call: "nvmlDeviceGetPowerUsage", DelayMS: 3_600_000}, {Call: "nvmlDeviceGetTemperature", DelayMS: 100}}
	lib, path := open(t, s)
	slow, _ := lib.DeviceGetHandleByIndex(0)
	quick, _ := lib.DeviceGetHandleByIndex(1)
	began := time.Now()
	slow.GetTemperature(nvml.TEMPERATURE_GPU)
	must.GreaterEq(t, 100*time.Millisecond, time.Since(began))
	done := make(chan struct{})
	go func() {
		defer close(done)
		slow.GetPowerUsage()
	}()
	_, ret := quick.GetPowerUsage()
	must.Eq(t, nvml.SUCCESS, ret)
	select {
	case <-done:
		t.Fatal("the quick call waited for the slow one")
	default:
	}
	s.GPUs[0].Faults = nil // which ends the delay
	must.NoError(t, WriteState(path, s))
	<-done
}

func TestEventsArriveOnce(t *testing.T) {
	s := Host("a", H100SXM(), 1)
	s.GPUs[0].Xid(13) // before registration: never delivered
	lib, path := open(t, s)
	d, _ := lib.DeviceGetHandleByIndex(0)
	set, _ := lib.EventSetCreate()
	must.Eq(t, nvml.SUCCESS, d.RegisterEvents(nvml.EventTypeXidCriticalError, set))
	_, ret := set.Wait(0)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret)
	s.GPUs[0].Xid(79)
	must.NoError(t, WriteState(path, s))
	e, ret := set.Wait(60_000)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 79, e.EventData)
	uuid, _ := e.Device.GetUUID()
	must.Eq(t, s.GPUs[0].UUID, uuid)
	_, ret = set.Wait(0)
	must.Eq(t, nvml.ERROR_TIMEOUT, ret)
}

func TestMIGAndProcesses(t *testing.T) {
	s := Host("a", A100PCIe40GB(), 1)
	s.GPUs[0].Set("MigMode", 1, 1)
	s.GPUs[0].MIG = []MIG{{UUID: "MIG-1", Profile: "1g.5gb", MemoryMiB: 4864, GI: 7}}
	s.GPUs[0].Processes = []Process{{"compute", 42, mib}, {"graphics", 43, mib}}
	lib, _ := open(t, s)
	d, _ := lib.DeviceGetHandleByIndex(0)
	mig, ret := d.GetMigDeviceHandleByIndex(0)
	must.Eq(t, nvml.SUCCESS, ret)
	name, _ := mig.GetName()
	must.Eq(t, "NVIDIA A100-PCIE-40GB MIG 1g.5gb", name)
	_, ret = d.GetMigDeviceHandleByIndex(1)
	must.Eq(t, nvml.ERROR_NOT_FOUND, ret)
	compute, _ := d.GetComputeRunningProcesses()
	graphics, _ := d.GetGraphicsRunningProcesses()
	must.Eq(t, uint32(42), compute[0].Pid)
	must.Eq(t, uint32(43), graphics[0].Pid)
}

func TestNoStateIsNoDriver(t *testing.T) {
	lib, path := open(t, State{})
	must.NoError(t, os.Remove(path))
	must.Eq(t, nvml.ERROR_DRIVER_NOT_LOADED, lib.Init())
}

func TestRootDriverRootServesCDI(t *testing.T) {
	root, s := t.TempDir(), Host("a", H100SXM(), 2)
	lib, _ := open(t, s)
	_, err := MakeDriverRoot(t.Context(), root, "", s)
	must.NoError(t, err)
	cdi, err := nvcdi.New(nvcdi.WithDriverRoot(root), nvcdi.WithDevRoot(root), nvcdi.WithNvmlLib(lib), nvcdi.WithMode(nvcdi.ModeNvml))
	must.NoError(t, err)
	devices, err := cdi.GetDeviceSpecsByID(s.GPUs[1].UUID)
	must.NoError(t, err)
	must.Len(t, 1, devices)
	var nodes []string
	for _, n := range devices[0].ContainerEdits.DeviceNodes {
		nodes = append(nodes, n.Path)
	}
	must.SliceContains(t, nodes, "/dev/nvidia1")
	must.SliceNotContains(t, nodes, "/dev/nvidia0")
	edits, err := cdi.GetCommonEdits()
	must.NoError(t, err)
	var mounts []string
	for _, m := range edits.Mounts {
		mounts = append(mounts, filepath.Base(m.ContainerPath))
	}
	for _, want := range []string{"libcuda.so.570.86.15", "libnvidia-ml.so.570.86.15", "nvidia-smi"} {
		must.SliceContains(t, mounts, want)
	}
}

// On the host the driver root's library follows the live state.
func TestRootDriverRootFollowsLiveState(t *testing.T) {
	root, live, s := t.TempDir(), filepath.Join(t.TempDir(), "live"), Host("a", L40S(), 2)
	_, err := MakeDriverRoot(t.Context(), root, live, s)
	must.NoError(t, err)
	steps := []struct {
		name   string
		change func() error
		want   string
	}{
		{"no driver", func() error { return nil }, "couldn't communicate with the NVIDIA driver"},
		{"two GPUs", func() error { return WriteState(live, s) }, s.GPUs[1].UUID},
		{"one lost", func() error { s.GPUs[1].Lose(); return WriteState(live, s) }, "gpu 1: GPU is lost"},
	}
	for _, step := range steps {
		must.NoError(t, step.change())
		cmd := exec.Command(filepath.Join(root, "usr/bin/nvidia-smi"))
		cmd.Env = []string{"LD_LIBRARY_PATH=" + filepath.Join(root, "usr/lib/x86_64-linux-gnu")}
		out, _ := cmd.CombinedOutput()
		must.StrContains(t, string(out), step.want, must.Sprint(step.name))
	}
}

// Where the live state cannot be seen, as in a sandbox, the library shows the GPUs that have a device node in /dev.
func TestRootSandboxSeesOnlyItsNodes(t *testing.T) {
	root, s := t.TempDir(), Host("a", H100SXM(), 3)
	s.GPUs[2].Minor = 255 // its node would be /dev/nvidia255: below, the one that exists
	_, err := MakeDriverRoot(t.Context(), root, "/nonexistent-"+t.Name()+"/live", s)
	must.NoError(t, err)
	libs := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	script := "mount -t tmpfs none /dev && : >/dev/nvidia255 && nvidia-smi -L"
	cmd := exec.Command("unshare", "-m", "sh", "-c", script)
	cmd.Env = []string{"PATH=" + filepath.Join(root, "usr/bin") + ":/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=" + libs}
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	must.Eq(t, 1, strings.Count(string(out), "GPU "))
	must.StrContains(t, string(out), s.GPUs[2].UUID)
}
