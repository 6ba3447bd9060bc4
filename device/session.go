package device

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"pangaea/device/nvml"
)

// session keeps the library open for as long as a driver answers, and opens it anew when one comes back. Whoever makes
// calls makes them [session.during] an epoch: handles die when the library is closed.
type session struct {
	lib     *nvml.Library
	log     hclog.Logger
	worker  *worker
	restart func(reason string) // ends this process, so that Nomad starts one that can load the new library

	calls sync.RWMutex // held for reading during calls, for writing while the library is closed
	epoch uint64       // counts openings and closings, under calls

	// The worker's own.
	opens int
	last  nvml.Machine // the last good answer

	// The monitor's own.
	reply   chan sessionReply
	asked   bool
	current uint64 // the epoch of the last good answer
	broken  bool   // close the library before asking again, as soon as nobody is in a call
	gone    bool   // there was no driver, or another one, since the last good answer
	said    string
}

type sessionReply struct {
	machine nvml.Machine
	epoch   uint64
	err     error
}

// machine looks whether the library and the driver answer, and opens the library if need be. It returns the reason why
// not, and ok false without one when it is merely slow; fresh is true after an opening. It waits no longer than the
// patience: the library's own calls can hang as any other.
func (s *session) machine(patience, hangAfter time.Duration, now time.Time) (m nvml.Machine, ok, fresh bool, reason string) {
	if !s.asked {
		closeFirst := s.broken
		s.asked = s.worker.do(patience, func() { s.reply <- s.ask(closeFirst) })
	}
	if !s.asked {
		return m, false, false, s.worker.hang(hangAfter, now)
	}
	enough := s.worker.after(patience)
	r, ok := take(s.reply, &enough)
	if !ok {
		return m, false, false, s.worker.hang(hangAfter, now)
	}
	s.asked = false
	return s.settle(r)
}

// ask runs in the worker.
func (s *session) ask(closeFirst bool) sessionReply {
	var r sessionReply
	if closeFirst {
		s.shut()
	}
	if s.opens == 0 {
		r.err = s.lib.Open(&s.worker.trace)
		if r.err != nil {
			return r
		}
		s.opens++
		s.turn()
	}
	r.machine, r.err = s.lib.Machine(&s.worker.trace)
	if r.err == nil {
		s.last = r.machine
	} else if s.last.Count > 0 && !driverGone(r.err) {
		// The driver is there: its GPUs can answer for themselves.
		r.machine, r.err = s.last, nil
	}
	s.calls.RLock()
	defer s.calls.RUnlock()
	r.epoch = s.epoch
	return r
}

// turn begins an epoch. Nobody is in a call: the library was closed.
func (s *session) turn() {
	s.calls.Lock()
	defer s.calls.Unlock()
	s.epoch++
}

// shut closes the library if nobody is in a call; if somebody is, it stays open until a later try.
func (s *session) shut() {
	if !s.calls.TryLock() {
		return
	}
	defer s.calls.Unlock()
	s.epoch++ // no handle from before is used again
	for ; s.opens > 0; s.opens-- {
		s.lib.Close(&s.worker.trace)
	}
}

// driverGone tells whether an error means that there is no driver, or not the one that the library was opened with.
func driverGone(err error) bool {
	var failure nvml.Failure
	if !errors.As(err, &failure) {
		return false
	}
	switch failure.Code {
	case nvml.Uninitialized, nvml.DriverNotLoaded, nvml.LibraryNotFound, nvml.VersionMismatch:
		return true
	}
	return false
}

func (s *session) settle(r sessionReply) (m nvml.Machine, ok, fresh bool, reason string) {
	if r.err == nil {
		fresh = r.epoch != s.current
		s.current, s.broken = r.epoch, s.broken && !fresh
		s.say("")
		return r.machine, true, fresh, ""
	}
	s.broken = true
	s.gone = s.gone || driverGone(r.err)
	reason = r.err.Error()
	s.say(reason)
	var failure nvml.Failure
	if errors.As(r.err, &failure) && failure.Code == nvml.VersionMismatch && s.lib.Stale() {
		s.restart("the NVIDIA driver was upgraded")
	}
	return m, false, false, reason
}

// say logs a reason once, not every round.
func (s *session) say(reason string) {
	if reason == s.said {
		return
	}
	s.said = reason
	if reason == "" {
		s.log.Info("the NVIDIA driver answers again")
		return
	}
	s.log.Warn("no GPU can be offered", "reason", reason)
}

// during makes calls with handles of an epoch, unless it is over.
func (s *session) during(epoch uint64, calls func()) bool {
	if !s.calls.TryRLock() {
		return false
	}
	defer s.calls.RUnlock()
	if s.epoch != epoch {
		return false
	}
	calls()
	return true
}
