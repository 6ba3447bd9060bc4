package owner

import (
	"time"

	"pangaea/device/nvml"
)

// Rules are the owner's wishes for all his GPUs.
type Rules struct {
	Hours     Hours
	IdleAfter time.Duration // how long a GPU must be left alone before it is offered again
	Names     []string      // only these processes count; none: all but the desktop's
	Ignore    bool          // processes never count
}

// Claim remembers one GPU's use by its owner.
type Claim struct {
	lastUse time.Time
	last    string
}

// Reason says why the GPU is not offered now, "" when it is.
func (c *Claim) Reason(r Rules, h Host, processes []nvml.Process, now time.Time) string {
	if !r.Ignore {
		process := h.Foreign(processes, r.Names)
		if process != "" {
			c.lastUse, c.last = now, process
			return "in use by its owner: " + process
		}
		if c.last != "" && now.Sub(c.lastUse) < r.IdleAfter {
			return "was in use by its owner: " + c.last
		}
	}
	if !r.Hours.Offered(now) {
		return "outside the hours that its owner offers it in"
	}
	return ""
}
