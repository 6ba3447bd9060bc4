package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Watch delivers one GPU's Xid events. One goroutine uses it.
type Watch struct {
	device Device
	set    nvml.EventSet
}

// Watch registers for the GPU's Xid events from now on.
func (d Device) Watch() (*Watch, error) {
	for _, symbol := range []string{"nvmlEventSetCreate", "nvmlDeviceRegisterEvents", d.waitSymbol()} {
		if !d.lib.has(symbol) {
			return nil, Failure{Call: symbol, Code: Code(nvml.ERROR_FUNCTION_NOT_FOUND)}
		}
	}
	defer d.trace.end()
	d.trace.begin("nvmlEventSetCreate")
	set, ret := d.lib.api.EventSetCreate()
	if ret != nvml.SUCCESS {
		return nil, Failure{Call: "nvmlEventSetCreate", Code: Code(ret)}
	}
	d.trace.begin("nvmlDeviceRegisterEvents")
	ret = d.handle.RegisterEvents(nvml.EventTypeXidCriticalError, set)
	if ret != nvml.SUCCESS {
		_ = set.Free()
		return nil, Failure{Call: "nvmlDeviceRegisterEvents", Code: Code(ret)}
	}
	return &Watch{device: d, set: set}, nil
}

func (d Device) waitSymbol() string {
	if d.lib.has("nvmlEventSetWait_v2") {
		return "nvmlEventSetWait_v2"
	}
	return "nvmlEventSetWait"
}

// Next waits up to the time given for an Xid; ok is false when none came.
func (w *Watch) Next(milliseconds uint32) (xid uint64, ok bool, err error) {
	event, ret := w.set.Wait(milliseconds)
	switch {
	case ret == nvml.ERROR_TIMEOUT:
		return 0, false, nil
	case ret != nvml.SUCCESS:
		return 0, false, Failure{Call: w.device.waitSymbol(), Code: Code(ret)}
	}
	return event.EventData, event.EventType&nvml.EventTypeXidCriticalError != 0, nil
}

// Close ends the registration.
func (w *Watch) Close() { _ = w.set.Free() }
