package device

import (
	"strings"
	"time"

	"pangaea/device/nvml"
	"pangaea/device/owner"
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
	migAsked  bool // else it is as it was
	migKnown  bool // else mig and instances may not be all there is
	instances []instance

	computeMode nvml.Reading[string]
}

// instance is one MIG instance of a probed GPU.
type instance struct {
	id        nvml.Identity
	device    nvml.Device
	memory    nvml.Memory
	bar1      nvml.Reading[uint64]
	processes []nvml.Process
	users     []owner.User
	left      string // what the next tenant would find
	broken    string // why it could not be looked at now, though it was there before
}

// question is what a look is to find out: little of a GPU that is known, everything of one that is not.
type question struct {
	uuid   string // the GPU that was there last
	traits bool   // who it is, what it can do, and whether it is in MIG mode
	mig    bool   // what instances it has
	before nvml.Traits

	computeMode bool // what it is, which matters where MPS shares the GPU
}

// look makes all calls of one round for one GPU. It runs in the GPU's worker.
func look(lib *nvml.Library, index int, trace *nvml.Trace, q question) probe {
	p := probe{index: index}
	p.device, p.err = lib.Device(index, trace)
	if p.err != nil {
		return p
	}
	p.id.UUID, p.err = p.device.UUID()
	if p.err != nil {
		return p
	}
	p.vitals = p.device.Vitals()
	if p.id.UUID != q.uuid {
		q = question{traits: true, computeMode: q.computeMode}
	}
	var failures []nvml.Failure
	if q.traits {
		p.id, failures = p.device.Identity(p.id.UUID)
		p.vitals.Failures = append(failures, p.vitals.Failures...)
		p.traits, failures = p.device.Traits(q.before)
		p.traitsNew = true
		p.vitals.Failures = append(p.vitals.Failures, failures...)
	}
	if q.computeMode {
		p.computeMode, failures = p.device.ComputeMode()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
	}
	if q.traits || q.mig {
		p.lookAtInstances()
	}
	return p
}

func (p *probe) lookAtInstances() {
	found, mig, failures := p.device.Instances()
	p.mig, p.migAsked, p.migKnown = mig, true, len(failures) == 0
	p.vitals.Failures = append(p.vitals.Failures, failures...)
	for _, d := range found {
		i := instance{device: d}
		uuid, err := d.UUID()
		if err != nil {
			p.migKnown = false // it may be one that is known, or one that is being made just now
			continue
		}
		i.id, _ = d.Identity(uuid)
		i.memory, failures = d.Memory()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
		i.bar1, failures = d.BAR1()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
		i.processes, failures = d.Processes()
		p.vitals.Failures = append(p.vitals.Failures, failures...)
		p.instances = append(p.instances, i)
	}
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

// begin starts a look unless the last one has not come back, or the worker does not take it in time.
func (s *slot) begin(ses *session, index int, q question, within time.Duration) {
	s.stale = s.asked
	if s.asked {
		return
	}
	epoch := ses.current
	s.asked = s.worker.do(within, func() {
		var p probe
		ok := ses.during(epoch, func() { p = look(ses.lib, index, &s.worker.trace, q) })
		if !ok {
			p = probe{index: index, err: nvml.Failure{Call: "nvmlInit_v2", Code: nvml.DriverNotLoaded}}
		}
		s.result <- p
	})
}

// fetch waits for the look as long as the patience lasts, and only in the round that began it, so that a GPU that hangs delays
// the others for one round. There is none to wait for when the worker was busy with something else.
func (s *slot) fetch(patience time.Duration) (probe, bool) {
	if !s.asked {
		return probe{}, false
	}
	var enough <-chan time.Time
	if s.stale {
		enough = over()
	} else {
		enough = s.worker.after(patience)
	}
	p, ok := take(s.result, &enough)
	if ok {
		s.asked = false
	}
	return p, ok
}
