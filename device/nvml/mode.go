package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// ExclusiveProcess is the compute mode in which one process at a time has contexts on a GPU: with MPS that is its server.
const ExclusiveProcess = "EXCLUSIVE_PROCESS"

// ComputeMode is the GPU's, by the name that nvidia-smi -c takes.
func (d Device) ComputeMode() (Reading[string], []Failure) {
	r := &reader{device: d}
	mode := read(r, "nvmlDeviceGetComputeMode", d.handle.GetComputeMode)
	if !mode.OK {
		return Reading[string]{}, r.failures
	}
	names := map[nvml.ComputeMode]string{
		nvml.COMPUTEMODE_DEFAULT: "DEFAULT", nvml.COMPUTEMODE_EXCLUSIVE_THREAD: "EXCLUSIVE_THREAD",
		nvml.COMPUTEMODE_PROHIBITED: "PROHIBITED", nvml.COMPUTEMODE_EXCLUSIVE_PROCESS: ExclusiveProcess,
	}
	name, ok := names[mode.Value]
	if !ok {
		name = fmt.Sprintf("mode %d", mode.Value)
	}
	return Of(name), r.failures
}
