package nvml

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// Process is one process with a context on the GPU.
type Process struct {
	PID      int
	Graphics bool
}

// Processes are the processes that hold the GPU; the same one may appear as compute and as graphics.
func (d Device) Processes() ([]Process, []Failure) {
	r := &reader{device: d}
	var all []Process
	for _, kind := range []string{"Compute", "Graphics"} {
		first := "nvmlDeviceGet" + kind + "RunningProcesses"
		symbol := d.newest(first)
		pids := read(r, symbol, func() ([]uint32, nvml.Return) {
			if symbol == first {
				return list(d, symbol, func(p nvml.ProcessInfo_v1) uint32 { return p.Pid })
			}
			return list(d, symbol, func(p nvml.ProcessInfo) uint32 { return p.Pid })
		})
		for _, pid := range pids.Value {
			all = append(all, Process{PID: int(pid), Graphics: kind == "Graphics"})
		}
	}
	return all, r.failures
}

// newest is the symbol of a function with versions that the library has.
func (d Device) newest(symbol string) string {
	for _, suffix := range []string{"_v3", "_v2"} {
		if d.lib.has(symbol + suffix) {
			return symbol + suffix
		}
	}
	return symbol
}
