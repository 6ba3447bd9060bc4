package nvml

import (
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Reading is a value that a GPU may not have.
type Reading[T any] struct {
	Value T
	OK    bool
}

// Of is a reading that is there.
func Of[T any](v T) Reading[T] { return Reading[T]{Value: v, OK: true} }

// unavailable tells NVML's way of saying that it does not know a number: all bits set, here perhaps in a wider type.
func unavailable(value any) bool {
	switch v := value.(type) {
	case uint32:
		return v == math.MaxUint32
	case uint64:
		return v == math.MaxUint64
	case int:
		return v == math.MaxUint32 || v == -1
	}
	return false
}

// known is a number out of a structure.
func known[T any](v T, ok bool) Reading[T] {
	if !ok || unavailable(v) {
		return Reading[T]{}
	}
	return Of(v)
}

// Code is NVML's return code.
type Code int

// The codes that callers tell apart.
const (
	Uninitialized   Code = Code(nvml.ERROR_UNINITIALIZED)
	DriverNotLoaded Code = Code(nvml.ERROR_DRIVER_NOT_LOADED)
	LibraryNotFound Code = Code(nvml.ERROR_LIBRARY_NOT_FOUND)
	GPULost         Code = Code(nvml.ERROR_GPU_IS_LOST)
	ResetRequired   Code = Code(nvml.ERROR_RESET_REQUIRED)
	VersionMismatch Code = Code(nvml.ERROR_LIB_RM_VERSION_MISMATCH)
)

// Failure is a call that did not succeed and should have.
type Failure struct {
	Call string
	Code Code
}

// Error says which call failed and how, in words that a cluster's owner can act on.
func (f Failure) Error() string {
	switch f.Code {
	case GPULost:
		return "fallen off the bus (" + f.Call + ": GPU is lost): power-cycle or reset it"
	case ResetRequired:
		return "needs a reset (" + f.Call + "): run nvidia-smi --gpu-reset"
	case VersionMismatch:
		return "driver and library versions differ (" + f.Call + "): reload the driver or reboot"
	case DriverNotLoaded:
		return "NVIDIA driver not loaded (" + f.Call + "): load the nvidia module"
	case LibraryNotFound:
		return "libnvidia-ml.so.1 not found: install the NVIDIA driver or set library_path"
	}
	return fmt.Sprintf("%s: %s", f.Call, nvml.Return(f.Code))
}

// harmless tells whether a code only means that a GPU, a driver or this user cannot have the answer.
func harmless(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_PERMISSION, nvml.ERROR_NO_DATA,
		nvml.ERROR_ARGUMENT_VERSION_MISMATCH, nvml.ERROR_DEPRECATED, nvml.ERROR_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT,
		nvml.ERROR_INSUFFICIENT_SIZE, nvml.ERROR_VGPU_ECC_NOT_SUPPORTED, nvml.ERROR_FREQ_NOT_SUPPORTED,
		nvml.ERROR_RESET_TYPE_NOT_SUPPORTED, nvml.ERROR_ALREADY_INITIALIZED:
		return true
	}
	return false
}

// Harmless tells whether a failure says nothing about the GPU's health.
func (f Failure) Harmless() bool { return harmless(nvml.Return(f.Code)) }
