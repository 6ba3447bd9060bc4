package nvml

import (
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Device is the handle of one GPU or MIG instance. Only the goroutine that owns its trace may call it.
type Device struct {
	lib         *Library
	handle      nvml.Device
	trace       *Trace
	parent      nvml.Device // of a MIG instance
	gpuInstance int         // its number there
}

// Identity is who a GPU is. UUID is always there.
type Identity struct {
	UUID  string
	Name  Reading[string]
	BusID Reading[string] // as sysfs writes it: 0000:1b:00.0
}

// reader runs calls of one device and gathers those that fail.
type reader struct {
	device   Device
	failures []Failure
}

// read runs one call unless the library lacks it, and writes down its failure unless that is harmless.
func read[T any](r *reader, symbol string, call func() (T, nvml.Return)) Reading[T] {
	if !r.device.lib.has(symbol) {
		return Reading[T]{}
	}
	r.device.trace.begin(symbol)
	v, ret := call()
	r.device.trace.end()
	if ret == nvml.SUCCESS {
		return known(v, true)
	}
	r.fail(symbol, ret)
	return Reading[T]{}
}

// fail writes down that a call failed, unless that is harmless.
func (r *reader) fail(symbol string, ret nvml.Return) {
	if !harmless(ret) {
		r.failures = append(r.failures, Failure{Call: symbol, Code: Code(ret)})
	}
}

// UUID asks which GPU this is.
func (d Device) UUID() (string, error) {
	d.trace.begin("nvmlDeviceGetUUID")
	uuid, ret := d.handle.GetUUID()
	d.trace.end()
	if ret != nvml.SUCCESS {
		return "", Failure{Call: "nvmlDeviceGetUUID", Code: Code(ret)}
	}
	if !wellFormed(uuid) {
		return "", fmt.Errorf("the driver gives it the UUID %q, which is none", uuid)
	}
	return uuid, nil
}

// Identity asks who the GPU with this UUID is besides.
func (d Device) Identity(uuid string) (Identity, []Failure) {
	r := &reader{device: d}
	id := Identity{UUID: uuid, Name: read(r, "nvmlDeviceGetName", d.handle.GetName)}
	// Unlike for the others go-nvml picks the newest version there is, so that any of them will do.
	id.BusID = d.busID(r)
	return id, r.failures
}

// wellFormed tells whether a UUID can be an ID in Nomad's hands and part of a variable's name.
func wellFormed(uuid string) bool {
	const most = 80 // NVML's own limit
	strange := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '/'
	}
	return uuid != "" && len(uuid) <= most && strings.IndexFunc(uuid, strange) < 0
}

func (d Device) busID(r *reader) Reading[string] {
	symbol := "nvmlDeviceGetPciInfo_v3"
	if !d.lib.has(symbol) {
		symbol = "nvmlDeviceGetPciInfo"
	}
	pci := read(r, symbol, d.handle.GetPciInfo)
	if !pci.OK {
		return Reading[string]{}
	}
	return Of(sysfsBusID(pci.Value.BusId, pci.Value.BusIdLegacy))
}

// sysfsBusID writes NVML's 00000000:1B:00.0 as the kernel does, 0000:1b:00.0. Libraries before _v3 fill the legacy form alone.
func sysfsBusID(long [32]int8, legacy [16]int8) string {
	id := text(long[:])
	if id == "" {
		id = text(legacy[:])
	}
	id = strings.ToLower(id)
	domain, rest, found := strings.Cut(id, ":")
	if found && len(domain) == 8 && strings.HasPrefix(domain, "0000") {
		domain = domain[4:]
	}
	return domain + ":" + rest
}

func text(chars []int8) string {
	var b strings.Builder
	for _, c := range chars {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// Instances are the MIG instances of a GPU in MIG mode; ok is false for a GPU that is not. With failures neither may be right.
func (d Device) Instances() (instances []Device, ok bool, failures []Failure) {
	r := &reader{device: d}
	mode := read(r, "nvmlDeviceGetMigMode", func() (int, nvml.Return) {
		current, _, ret := d.handle.GetMigMode()
		return current, ret
	})
	if !mode.OK || mode.Value != nvml.DEVICE_MIG_ENABLE {
		return nil, false, r.failures
	}
	most := read(r, "nvmlDeviceGetMaxMigDeviceCount", d.handle.GetMaxMigDeviceCount)
	for i := range most.Value {
		mig := read(r, "nvmlDeviceGetMigDeviceHandleByIndex", func() (nvml.Device, nvml.Return) { return d.handle.GetMigDeviceHandleByIndex(i) })
		if mig.OK {
			number := read(r, "nvmlDeviceGetGpuInstanceId", mig.Value.GetGpuInstanceId)
			instances = append(instances, Device{lib: d.lib, handle: mig.Value, trace: d.trace, parent: d.handle, gpuInstance: number.Value})
		}
	}
	return instances, true, r.failures
}
