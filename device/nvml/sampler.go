package nvml

import "time"

// Sampler takes the samples of one GPU or MIG instance, one after another. It asks for what changes rarely only now and then,
// and knows rates, which take two samples. A new one is needed when the library is opened anew.
type Sampler struct {
	counters   Counters
	countersAt time.Time
	activity   activityMeter
	links      uint64 // NVLink's counters, both ways
	linksAt    time.Time
}

// Sample asks the GPU what it is doing, and for its counters if they are older than the age given. What it doesn't tell is absent.
func (s *Sampler) Sample(d Device, age time.Duration) Sample {
	now := time.Now()
	r := &reader{device: d}
	sample := d.sample(r)
	if s.countersAt.IsZero() || now.Sub(s.countersAt) >= age {
		s.counters, s.countersAt = d.counters(r), now
	}
	sample.Counters = s.counters
	sample.Activity = s.activity.read(d, r, now)
	sample.NVLinkRate = s.linkRate(sample, now)
	return sample
}

func (s *Sampler) linkRate(sample Sample, now time.Time) Reading[float64] {
	if !sample.NVLinkSent.OK || !sample.NVLinkReceived.OK {
		s.linksAt = time.Time{}
		return Reading[float64]{}
	}
	sum, before, gap := sample.NVLinkSent.Value+sample.NVLinkReceived.Value, s.links, now.Sub(s.linksAt)
	first := s.linksAt.IsZero()
	s.links, s.linksAt = sum, now
	if first || gap <= 0 || sum < before { // a reset sets the counters to nothing
		return Reading[float64]{}
	}
	return Of(float64(sum-before) / gap.Seconds())
}
