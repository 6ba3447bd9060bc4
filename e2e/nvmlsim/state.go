package nvmlsim

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// StateFile is the name under which the library looks for its state beside itself.
const StateFile = "nvmlsim.state"

// State is everything that the simulated library knows. Its zero value is a machine with a driver and no GPU.
type State struct {
	DriverVersion string // default 570.86.15
	CUDAVersion   int    // as NVML counts: 12080 is 12.8, the default
	Faults        []Fault
	GPUs          []*GPU
}

// Fault makes a call fail, hang, or both; a call that hangs goes on once its fault is taken out of the state. On the State it holds for every device and for the library's own calls; on a
// GPU for that GPU's calls, its MIG instances' included.
type Fault struct {
	Call    string // such as nvmlDeviceGetTemperature, or * for every call
	Code    int    // an nvmlReturn_t; 0 lets the call go on after the delay
	DelayMS int
}

// GPU is one device. Readings hold the answers of all plain calls by name without "nvmlDeviceGet", selectors appended:
// "Temperature.0": "41". A call without a reading answers NOT_SUPPORTED.
type GPU struct {
	UUID      string
	Minor     int
	BusID     string // 00000000:1B:00.0
	Readings  map[string]string
	Processes []Process
	Events    []Event
	Links     []Link
	MIG       []MIG
	Faults    []Fault
}

// Process is one entry of the running process lists.
type Process struct {
	Kind  string // compute, graphics or mps
	PID   int
	Bytes int64
}

// Event is delivered once to each event set that was registered before it appeared. Seq grows; Type is an NVML event
// type, where 8 is an Xid, and Data its number.
type Event struct{ Seq, Type, Data uint64 }

// Link is an active NVLink to the device at a bus id. Switch tells an NVSwitch from a GPU.
type Link struct {
	RemoteBusID string
	Switch      bool
}

// MIG is one instance of a GPU in MIG mode.
type MIG struct {
	UUID      string
	Profile   string // 1g.10gb
	MemoryMiB int
	GI, CI    int
	SMPercent float64 // activity of its multiprocessors
	BAR1MiB   int     // 0 when it does not tell
	Processes []Process
}

// Set changes a reading; several values are written one after another.
func (g *GPU) Set(name string, values ...any) {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	g.Readings[name] = strings.Join(words, " ")
}

// Unset makes a reading unsupported.
func (g *GPU) Unset(name string) { delete(g.Readings, name) }

// Lose makes every call about the GPU answer that it fell off the bus.
func (g *GPU) Lose() { g.Faults = append(g.Faults, Fault{Call: "*", Code: 15}) }

// Xid adds an Xid event.
func (g *GPU) Xid(number uint64) {
	seq := uint64(1)
	if n := len(g.Events); n > 0 {
		seq = g.Events[n-1].Seq + 1
	}
	g.Events = append(g.Events, Event{Seq: seq, Type: 8, Data: number})
}

// WriteState replaces the state file in one step, so that a library in use sees the old or the new one.
func WriteState(path string, s State) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err != nil {
		return fmt.Errorf("cannot make the state's directory: %w", err)
	}
	temp := path + ".new"
	err = os.WriteFile(temp, s.Text(), 0o644)
	if err != nil {
		return fmt.Errorf("cannot write state: %w", err)
	}
	err = os.Rename(temp, path)
	if err != nil {
		return fmt.Errorf("cannot replace state: %w", err)
	}
	return nil
}

// Text is the state as the library reads it.
func (s State) Text() []byte {
	var b bytes.Buffer
	version, cuda := s.DriverVersion, s.CUDAVersion
	if version == "" {
		version = "570.86.15"
	}
	if cuda == 0 {
		cuda = 12080
	}
	fmt.Fprintf(&b, "DriverVersion %s\nNVMLVersion 12.%s\nCudaDriverVersion %d\n", version, version, cuda)
	writeFaults(&b, s.Faults)
	for _, g := range s.GPUs {
		g.write(&b)
	}
	return b.Bytes()
}

func writeFaults(b *bytes.Buffer, faults []Fault) {
	for _, f := range faults {
		fmt.Fprintf(b, "fault %s %d %d\n", f.Call, f.Code, f.DelayMS)
	}
}

func writeProcesses(b *bytes.Buffer, processes []Process) {
	for _, p := range processes {
		fmt.Fprintf(b, "process %s %d %d\n", p.Kind, p.PID, p.Bytes)
	}
}

func (g *GPU) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "gpu %s\n", g.UUID)
	if _, other := g.Readings["UUID"]; !other {
		fmt.Fprintf(b, "UUID %s\n", g.UUID)
	}
	fmt.Fprintf(b, "MinorNumber %d\nPciInfo %s\n", g.Minor, g.BusID)
	for _, key := range slices.Sorted(maps.Keys(g.Readings)) {
		fmt.Fprintf(b, "%s %s\n", key, g.Readings[key])
	}
	writeFaults(b, g.Faults)
	writeProcesses(b, g.Processes)
	for _, e := range g.Events {
		fmt.Fprintf(b, "event %d %d %d\n", e.Seq, e.Type, e.Data)
	}
	for i, l := range g.Links {
		kind := 0
		if l.Switch {
			kind = 2
		}
		fmt.Fprintf(b, "NvLinkState.%d 1\nNvLinkRemoteDeviceType.%d %d\nlink.%d %s\n", i, i, kind, i, l.RemoteBusID)
	}
	for _, m := range g.MIG {
		m.write(b, g)
	}
}

func (m MIG) write(b *bytes.Buffer, g *GPU) {
	total := strconv.Itoa(m.MemoryMiB << 20)
	fmt.Fprintf(b, "mig %s\nUUID %s\nName %s MIG %s\n", m.UUID, m.UUID, g.Readings["Name"], m.Profile)
	fmt.Fprintf(b, "MemoryInfo %s %s 0\nGpuInstanceId %d\nComputeInstanceId %d\nAttributes 16 1 1 %d\n", total, total, m.GI, m.CI, m.MemoryMiB)
	if m.BAR1MiB > 0 {
		fmt.Fprintf(b, "BAR1MemoryInfo %d %d 0\n", m.BAR1MiB<<20, m.BAR1MiB<<20)
	}
	writeProcesses(b, m.Processes)
	if m.SMPercent > 0 {
		fmt.Fprintf(b, "Gpm.2 %g\n", m.SMPercent)
	}
	for _, same := range []string{"CudaComputeCapability", "Architecture"} {
		fmt.Fprintf(b, "%s %s\n", same, g.Readings[same])
	}
}
