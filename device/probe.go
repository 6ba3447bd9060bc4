package device

import (
	"strings"

	"pangaea/device/nvml"
)

// probe is what one look at one index of the driver's list found.
type probe struct {
	index     int
	err       error // the GPU could not even be told by name
	id        nvml.Identity
	device    nvml.Device
	traits    nvml.Traits
	traitsNew bool
	vitals    nvml.Vitals
	mig       bool
	migKnown  bool // else mig and instances may not be all there is
	instances []instance
}

// instance is one MIG instance of a probed GPU.
type instance struct {
	id        nvml.Identity
	device    nvml.Device
	memory    nvml.Memory
	processes []nvml.Process
	left      string // what the next tenant would find
	broken    string // why it could not be looked at now, though it was there before
}

// look makes all calls of one round for one GPU. It runs in the GPU's worker.
func look(lib *nvml.Library, index int, trace *nvml.Trace, withTraits bool) probe {
	p := probe{index: index}
	p.device, p.err = lib.Device(index, trace)
	if p.err != nil {
		return p
	}
	var failures []nvml.Failure
	p.id, failures, p.err = p.device.Identity()
	if p.err != nil {
		return p
	}
	p.vitals = p.device.Vitals()
	p.vitals.Failures = append(failures, p.vitals.Failures...)
	if withTraits {
		p.traits, failures = p.device.Traits()
		p.traitsNew = true
		p.vitals.Failures = append(p.vitals.Failures, failures...)
	}
	var found []nvml.Device
	found, p.mig, failures = p.device.Instances()
	p.vitals.Failures = append(p.vitals.Failures, failures...)
	p.migKnown = len(failures) == 0
	for _, d := range found {
		i := instance{device: d}
		var err error
		i.id, _, err = d.Identity()
		if err != nil {
			p.migKnown = false // it may be one that is known, or one that is being made just now
			continue
		}
		i.memory, failures = d.Memory()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
		i.processes, failures = d.Processes()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
		p.instances = append(p.instances, i)
	}
	return p
}

// profile is what a MIG instance's name ends with.
func (i instance) profile() string {
	_, profile, _ := strings.Cut(i.id.Name.Value, " MIG ")
	return profile
}

// slot is one index of the driver's list, its worker, and the look that is under way there.
type slot struct {
	worker *worker
	result chan probe // room for one: a look that returns late does not wait to be fetched
	asked  bool
	stale  bool // the look was begun in an earlier round, which waited for it
}

// begin starts a look unless the last one has not come back.
func (s *slot) begin(ses *session, index int, withTraits bool) {
	s.stale = s.asked
	if s.asked {
		return
	}
	epoch := ses.current
	s.asked = s.worker.do(patience/20, func() {
		var p probe
		ok := ses.during(epoch, func() { p = look(ses.lib, index, &s.worker.trace, withTraits) })
		if !ok {
			p = probe{index: index, err: nvml.Failure{Call: "nvmlInit_v2", Code: nvml.DriverNotLoaded}}
		}
		s.result <- p
	})
}

// fetch waits for the look until the deadline: once, so that a GPU that hangs delays the others for one round. There is
// none to wait for when the worker was busy with something else.
func (s *slot) fetch(deadline <-chan struct{}) (probe, bool) {
	if !s.asked {
		return probe{}, false
	}
	select {
	case p := <-s.result:
		s.asked = false
		return p, true
	default:
	}
	if s.stale {
		return probe{}, false
	}
	select {
	case p := <-s.result:
		s.asked = false
		return p, true
	case <-deadline:
		return probe{}, false
	}
}
