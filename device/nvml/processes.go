package nvml

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

typedef int (*list_processes)(void *device, unsigned int *count, void *infos);

static int list(const char *symbol, void *device, unsigned int *count, void *infos) {
	list_processes f = (list_processes)dlsym(RTLD_DEFAULT, symbol);
	return f == 0 ? 13 : f(device, count, infos);
}
*/
import "C"

import (
	"reflect"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Process is one process with a context on the GPU.
type Process struct {
	PID      int
	Graphics bool
}

// mostProcesses is far above what a GPU's contexts leave memory for.
const mostProcesses = 1 << 14

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

// list asks with more room for as long as the library needs it. go-nvml's own loop has no end: it doubles the room until
// the memory is gone or the size overflows.
func list[T nvml.ProcessInfo | nvml.ProcessInfo_v1](d Device, symbol string, pid func(T) uint32) ([]uint32, nvml.Return) {
	handle := reflect.ValueOf(d.handle).FieldByName("Handle").UnsafePointer()
	name := C.CString(symbol)
	defer C.free(unsafe.Pointer(name))
	for room := 64; room <= mostProcesses; room *= 4 {
		infos := make([]T, room)
		count := C.uint(room)
		ret := nvml.Return(C.list(name, handle, &count, unsafe.Pointer(&infos[0])))
		if ret == nvml.ERROR_INSUFFICIENT_SIZE {
			continue
		}
		if ret != nvml.SUCCESS {
			return nil, ret
		}
		var pids []uint32
		for _, info := range infos[:min(int(count), room)] {
			pids = append(pids, pid(info))
		}
		return pids, nvml.SUCCESS
	}
	return nil, nvml.ERROR_MEMORY // no harmless code: whose the GPU is cannot be told
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
