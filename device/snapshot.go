package device

import (
	"slices"
	"strings"
	"time"

	"pangaea/device/control"
	"pangaea/device/holder"
	"pangaea/device/nvml"
)

// snapshot is everything known at one moment. It is never changed after it was published.
type snapshot struct {
	round   uint64
	began   time.Time
	epoch   uint64 // of the session that the units' handles belong to
	machine nvml.Machine
	problem string // why no GPU can be asked
	units   []unit
	gpus    []control.GPU
	changed chan struct{} // closed when there is a newer one
}

// unit is what can be reserved: a GPU, or an instance of one in MIG mode.
type unit struct {
	id      string
	name    string
	busID   string
	index   int // in the driver's list, -1 when it is not there
	healthy bool
	reason  string
	traits  nvml.Traits
	profile string // of a MIG instance: 1g.10gb
	place   place
	left    string // what keeps it from the next tenant until it is gone

	task    holder.Task // whose it is, as far as that is known
	lastXid uint64

	replicas int         // how many share the GPU; 0 when it is not shared
	mps      *mpsClients // nil when they take turns

	worker  *worker
	device  nvml.Device
	sampler *nvml.Sampler
	live    bool // device is a handle of the library as it is open now
}

// find is the unit with an id.
func (s *snapshot) find(id string) (unit, bool) {
	i := slices.IndexFunc(s.units, func(u unit) bool { return u.id == id })
	if i < 0 {
		return unit{}, false
	}
	return s.units[i], true
}

// unknownModel is the group of GPUs that were sick before they could be asked for their name. None of them is ever
// healthy, so that their leaving it double-books nothing.
const unknownModel = "NVIDIA GPU of unknown model"

// modelName keeps a product's name what it is today for ever. Drivers before 470 left the maker out of most names; the
// Tesla, Quadro and GRID lines go without it to this day.
func modelName(nvmlName string) string {
	name := strings.Join(strings.Fields(nvmlName), " ")
	for _, line := range []string{"NVIDIA ", "Tesla ", "Quadro ", "GRID "} {
		if strings.HasPrefix(name, line) {
			return name
		}
	}
	if name == "" {
		return unknownModel
	}
	return "NVIDIA " + name
}
