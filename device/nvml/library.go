package nvml

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Library is NVIDIA's library, loaded or not. Open may be called again and again until it succeeds.
type Library struct {
	api     nvml.Interface
	path    string
	mu      sync.RWMutex
	symbols map[string]bool
	loaded  fileID

	functions map[string]unsafe.Pointer
}

// Machine is what the library says about itself and the host.
type Machine struct {
	DriverVersion string
	CUDAVersion   int // 12080 is 12.8; 0 unknown
	Count         int
}

type fileID struct {
	dev, inode uint64
}

// New makes a library that is not loaded yet. An empty path leaves finding libnvidia-ml.so.1 to the dynamic linker.
func New(path string) *Library {
	var opts []nvml.LibraryOption
	if path != "" {
		opts = append(opts, nvml.WithLibraryPath(path))
	}
	return &Library{api: nvml.New(opts...), path: path, symbols: make(map[string]bool), functions: make(map[string]unsafe.Pointer)}
}

// Open loads and initialises the library.
func (l *Library) Open(t *Trace) error {
	t.begin("nvmlInit_v2")
	defer t.end()
	ret := l.api.Init()
	if ret != nvml.SUCCESS {
		return Failure{Call: "nvmlInit_v2", Code: Code(ret)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loaded == (fileID{}) {
		l.loaded = identify(l.location())
	}
	return nil
}

// Close undoes one Open. Handles of devices must not be used after it.
func (l *Library) Close(t *Trace) {
	t.begin("nvmlShutdown")
	defer t.end()
	_ = l.api.Shutdown() // a library that cannot even end is opened anew all the same
}

// Stale tells whether the library's file was replaced since it was loaded, as a driver upgrade does. This process
// can never use the new one.
func (l *Library) Stale() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := identify(l.location())
	return l.loaded != (fileID{}) && now != (fileID{}) && now != l.loaded
}

// location is the library's file, as well as it can be told without the linker's help.
func (l *Library) location() string {
	if l.path != "" {
		return l.path
	}
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib"} {
		path := filepath.Join(dir, "libnvidia-ml.so.1")
		_, err := os.Stat(path)
		if err == nil {
			return path
		}
	}
	return ""
}

func identify(path string) fileID {
	info, err := os.Stat(path)
	if err != nil {
		return fileID{}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{dev: st.Dev, inode: st.Ino}
}

// Machine asks for the driver's version and the number of GPUs.
func (l *Library) Machine(t *Trace) (Machine, error) {
	defer t.end()
	var m Machine
	t.begin("nvmlSystemGetDriverVersion")
	version, ret := l.api.SystemGetDriverVersion()
	if ret != nvml.SUCCESS && !harmless(ret) {
		return m, Failure{Call: "nvmlSystemGetDriverVersion", Code: Code(ret)}
	}
	m.DriverVersion = version
	if l.has("nvmlSystemGetCudaDriverVersion_v2") {
		t.begin("nvmlSystemGetCudaDriverVersion_v2")
		cuda, ret := l.api.SystemGetCudaDriverVersion_v2()
		if ret == nvml.SUCCESS {
			m.CUDAVersion = cuda
		}
	}
	t.begin("nvmlDeviceGetCount_v2")
	m.Count, ret = l.api.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return m, Failure{Call: "nvmlDeviceGetCount_v2", Code: Code(ret)}
	}
	return m, nil
}

// Device is the GPU at an index of the driver's list. All its calls are written down in the trace.
func (l *Library) Device(index int, t *Trace) (Device, error) {
	t.begin("nvmlDeviceGetHandleByIndex_v2")
	defer t.end()
	handle, ret := l.api.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return Device{}, Failure{Call: "nvmlDeviceGetHandleByIndex_v2", Code: Code(ret)}
	}
	return Device{lib: l, handle: handle, trace: t}, nil
}

// has tells whether the loaded library has a function; calling one that it lacks would end the process.
func (l *Library) has(symbol string) bool {
	l.mu.RLock()
	has, known := l.symbols[symbol]
	l.mu.RUnlock()
	if known {
		return has
	}
	has = l.api.Extensions().LookupSymbol(symbol) == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	l.symbols[symbol] = has
	return has
}
