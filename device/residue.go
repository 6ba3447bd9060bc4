package device

import (
	"fmt"
	"time"

	"pangaea/device/nvml"
	"pangaea/device/owner"
)

const (
	// residueGrace is how long a task's end may take: the kernel frees a GPU's memory seconds after a process is gone.
	residueGrace = 10 * time.Second
	// residueSlack is what drivers take and give back by themselves.
	residueSlack = 256 * mib
)

// residue tells what the last tenant left on a GPU or MIG instance. The next one would find it, or find less memory than
// he asked for; a context that outlived its process may even still compute.
type residue struct {
	baseline nvml.Reading[uint64] // the least memory in use that was seen with nobody there
	apart    bool                 // it is without what the driver reserves
	since    time.Time            // when something was left first
}

// look is what is there now that should not be when the next tenant comes, "" when it is clean; left is true when nobody
// is there whom it could belong to.
func (c *residue) look(users []owner.User, hidden int, m nvml.Memory) (what string, left bool) {
	ending := ""
	alone := true
	for _, u := range users {
		switch {
		case u.Ends:
			ending = fmt.Sprintf("process %s (%d) of its last task has not ended", u.Name, u.PID)
		case u.Alloc != "":
			return fmt.Sprintf("process %s (%d) of allocation %s is on it", u.Name, u.PID, u.Alloc), false
		case u.OfNomad:
			return fmt.Sprintf("process %s (%d) of a task is on it", u.Name, u.PID), false
		default:
			alone = false // the owner's or the desktop's: they hold memory too
		}
	}
	switch {
	case ending != "" || !alone:
		return ending, alone
	case hidden > 0:
		return "a process is on it that this host does not show", false
	case m.Used.OK:
		what = c.weigh(m)
	}
	return what, what != ""
}

// weigh compares the memory in use with nobody there to the baseline, and learns it.
func (c *residue) weigh(m nvml.Memory) string {
	if c.baseline.OK && c.apart != m.Reserved.OK {
		if c.apart {
			return "" // this once it counts something else
		}
		c.baseline = nvml.Reading[uint64]{}
	}
	most := c.most(m)
	if m.Used.Value > most {
		return fmt.Sprintf("memory is in use by no process, over %d MiB", most/mib)
	}
	if !c.baseline.OK || m.Used.Value < c.baseline.Value {
		c.baseline, c.apart = m.Used, m.Reserved.OK
	}
	return ""
}

// most is the memory that a GPU with nobody on it may have in use. One that was never seen so is given what a driver may
// reasonably hold: without a reading of what it reserves, that is part of it.
func (c *residue) most(m nvml.Memory) uint64 {
	switch {
	case c.baseline.OK:
		return c.baseline.Value + residueSlack
	case m.Reserved.OK:
		return 2 * residueSlack
	}
	return max(1024*mib, m.Total.Value/16)
}

// judge is why the GPU is kept from the next tenant, "" when it is not.
func (c *residue) judge(what string, left bool, now time.Time) string {
	if !left {
		c.since = time.Time{}
		return ""
	}
	if c.since.IsZero() {
		c.since = now
	}
	if now.Sub(c.since) < residueGrace {
		return ""
	}
	return "not clean after its last task: " + what
}
