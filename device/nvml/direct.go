package nvml

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

static void *find(const char *symbol) { return dlsym(RTLD_DEFAULT, symbol); }

static int list(void *f, void *device, unsigned int *count, void *infos) {
	return ((int (*)(void *, unsigned int *, void *))f)(device, count, infos);
}

static int compare(void *f, void *get) { return ((int (*)(void *))f)(get); }
*/
import "C"

import (
	"reflect"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Two calls are made past go-nvml, whose wrapping of them costs more than they do, or has no end.

// function is one of the loaded library's, which [Library.has] has found there.
func (l *Library) function(symbol string) unsafe.Pointer {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.functions[symbol]
	if !ok {
		name := C.CString(symbol)
		f = C.find(name)
		C.free(unsafe.Pointer(name))
		l.functions[symbol] = f
	}
	return f
}

// handle is the pointer inside one of go-nvml's devices or samples.
func handle(of any) unsafe.Pointer { return reflect.ValueOf(of).Field(0).UnsafePointer() }

// mostProcesses is far above what a GPU's contexts leave memory for.
const mostProcesses = 1 << 14

// list asks with more room for as long as the library needs it. go-nvml's own loop has no end: it doubles the room until
// the memory is gone or the size overflows.
func list[T nvml.ProcessInfo | nvml.ProcessInfo_v1](d Device, symbol string, pid func(T) uint32) ([]uint32, nvml.Return) {
	for room := 16; room <= mostProcesses; room *= 4 {
		infos := make([]T, room)
		count := C.uint(room)
		ret := nvml.Return(C.list(d.lib.function(symbol), handle(d.handle), &count, unsafe.Pointer(&infos[0])))
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

// comparison is nvml.h's nvmlGpmMetricsGet_t, with as many metrics as the first header had that knew it. go-nvml copies one of
// 19 KB, four times for each call. No Go pointer is in it: the samples and the names are the library's.
type comparison struct {
	version, count uint32
	before, after  uintptr
	metrics        [98]struct {
		id, ret uint32
		value   float64
		_       [3]uintptr // names and unit
	}
}

// compare has the library fill in what happened between two samples.
func (d Device) compare(symbol string, c *comparison, before, after nvml.GpmSample) nvml.Return {
	c.version = nvml.GPM_METRICS_GET_VERSION
	c.before, c.after = uintptr(handle(before)), uintptr(handle(after))
	return nvml.Return(C.compare(d.lib.function(symbol), unsafe.Pointer(c)))
}
