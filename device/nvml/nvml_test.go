package nvml

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/e2e/nvmlsim"
)

// library is the simulator: a process binds NVML's functions once, to the first library that it loads.
var library string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pangaea-nvml-")
	if err == nil {
		library, err = nvmlsim.Build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func open(t *testing.T, s nvmlsim.State) *Library {
	t.Helper()
	must.NoError(t, nvmlsim.WriteState(filepath.Join(filepath.Dir(library), nvmlsim.StateFile), s))
	lib := New(library)
	var trace Trace
	must.NoError(t, lib.Open(&trace))
	t.Cleanup(func() { lib.Close(&trace) })
	return lib
}

func TestIdentityAndTraits(t *testing.T) {
	s := nvmlsim.Host("x", nvmlsim.L4(), 2)
	lib := open(t, s)
	var trace Trace
	m, err := lib.Machine(&trace)
	must.NoError(t, err)
	must.Eq(t, Machine{DriverVersion: "570.86.15", CUDAVersion: 12080, Count: 2}, m)
	d, err := lib.Device(1, &trace)
	must.NoError(t, err)
	uuid, err := d.UUID()
	must.NoError(t, err)
	id, failures := d.Identity(uuid)
	must.SliceEmpty(t, failures)
	must.Eq(t, Identity{UUID: s.GPUs[1].UUID, Name: Of("NVIDIA L4"), BusID: Of("0000:2b:00.0")}, id)
	traits, failures := d.Traits(Traits{})
	must.SliceEmpty(t, failures)
	must.Eq(t, Of[uint64](23034<<20), traits.Memory)
	must.Eq(t, Of("ada"), traits.Architecture)
	must.False(t, traits.NVLinkPeers.OK)
	must.Nil(t, trace.Current())
	_, err = lib.Device(2, &trace)
	must.Error(t, err)
}

// An answer that cannot be given is absent; one that fails names its call; neither keeps others away.
func TestFailuresNameTheirCall(t *testing.T) {
	cases := []struct {
		code   int
		absent bool
		text   string
	}{
		{3, true, ""},
		{4, true, ""},
		{13, true, ""},
		{26, true, ""},
		{15, false, "fallen off the bus (nvmlDeviceGetTemperature: GPU is lost): power-cycle or reset it"},
		{16, false, "needs a reset (nvmlDeviceGetTemperature): run nvidia-smi --gpu-reset"},
		{999, false, "nvmlDeviceGetTemperature: Unknown Error"},
	}
	for _, c := range cases {
		s := nvmlsim.Host("x", nvmlsim.L4(), 1)
		s.GPUs[0].Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetTemperature", Code: c.code}}
		lib := open(t, s)
		var trace Trace
		d, err := lib.Device(0, &trace)
		must.NoError(t, err)
		v := d.Vitals()
		must.False(t, v.Temperature.OK)
		must.True(t, v.Uncorrectable.OK, must.Sprint("other readings"))
		if c.absent {
			must.SliceEmpty(t, v.Failures)
			continue
		}
		must.Len(t, 1, v.Failures)
		must.EqError(t, v.Failures[0], c.text)
		must.False(t, v.Failures[0].Harmless())
	}
}

// Old drivers' libraries lack functions. Calling one would end the process.
func TestMissingSymbolsAreAbsent(t *testing.T) {
	lib := open(t, nvmlsim.Host("x", nvmlsim.H100SXM(), 1))
	for _, symbol := range []string{"nvmlDeviceGetTemperature", "nvmlDeviceGetFieldValues", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlEventSetWait_v2"} {
		lib.symbols[symbol] = false
	}
	var trace Trace
	d, err := lib.Device(0, &trace)
	must.NoError(t, err)
	v := d.Vitals()
	must.SliceEmpty(t, v.Failures)
	must.False(t, v.Temperature.OK)
	must.False(t, lib.has("nvmlNoSuchFunction"))
	must.Eq(t, "nvmlEventSetWait", d.waitSymbol())
}

func TestTraceTellsTheCall(t *testing.T) {
	s := nvmlsim.Host("x", nvmlsim.L4(), 1)
	s.GPUs[0].Faults = []nvmlsim.Fault{{Call: "nvmlDeviceGetMemoryInfo_v2", DelayMS: 3_600_000}}
	lib := open(t, s)
	var trace Trace
	d, err := lib.Device(0, &trace)
	must.NoError(t, err)
	done := make(chan Vitals)
	go func() { done <- d.Vitals() }()
	for { // it gets there, and no further
		c := trace.Current()
		if c != nil && c.Name == "nvmlDeviceGetMemoryInfo_v2" {
			must.False(t, c.Since.After(time.Now()))
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.GPUs[0].Faults = nil // which ends the delay
	must.NoError(t, nvmlsim.WriteState(filepath.Join(filepath.Dir(library), nvmlsim.StateFile), s))
	<-done
	must.Nil(t, trace.Current())
}

func TestWatchDeliversXids(t *testing.T) {
	s := nvmlsim.Host("x", nvmlsim.L4(), 1)
	lib := open(t, s)
	var trace Trace
	d, err := lib.Device(0, &trace)
	must.NoError(t, err)
	w, err := d.Watch()
	must.NoError(t, err)
	defer w.Close()
	_, ok, err := w.Next(0)
	must.NoError(t, err)
	must.False(t, ok)
	s.GPUs[0].Xid(48)
	must.NoError(t, nvmlsim.WriteState(filepath.Join(filepath.Dir(library), nvmlsim.StateFile), s))
	xid, ok, err := w.Next(60_000)
	must.NoError(t, err)
	must.True(t, ok)
	must.Eq(t, uint64(48), xid)
}

func TestNoLibrary(t *testing.T) {
	var trace Trace
	err := New(t.TempDir() + "/none.so").Open(&trace)
	must.EqError(t, err, "libnvidia-ml.so.1 not found: install the NVIDIA driver or set library_path")
}

func TestBusIDsAsSysfsWritesThem(t *testing.T) {
	chars := func(text string) (long [32]int8, legacy [16]int8) {
		for i, c := range []byte(text) {
			long[i] = int8(c)
			if i < len(legacy) {
				legacy[i] = int8(c)
			}
		}
		return long, legacy
	}
	cases := []struct{ long, legacy, want string }{
		{"00000000:1B:00.0", "", "0000:1b:00.0"},
		{"", "0000:AF:00.0", "0000:af:00.0"},
		{"00010000:3D:00.0", "", "00010000:3d:00.0"}, // as on Azure
		{"0000000F:01:00.0", "", "000f:01:00.0"},
	}
	for _, c := range cases {
		long, _ := chars(c.long)
		_, legacy := chars(c.legacy)
		must.Eq(t, c.want, sysfsBusID(long, legacy))
	}
}
