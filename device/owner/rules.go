package owner

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Rules are the owner's wishes for all his GPUs.
type Rules struct {
	Hours     Hours
	IdleAfter time.Duration // how long a GPU must be left alone before it is offered again
	Names     []string      // only these processes count; none: all but the desktop's
	Ignore    bool          // processes never count

	// ReclaimFile takes GPUs back for as long as it exists: those whose UUIDs it lists, one a line, or all if it lists none.
	ReclaimFile string
}

// Claim remembers one GPU's use by its owner.
type Claim struct {
	lastUse time.Time
	last    string
}

// Reason says why the GPU is not offered now, "" when it is.
func (c *Claim) Reason(r Rules, uuid string, users []User, now time.Time) string {
	if r.reclaimed(uuid) {
		return "reclaimed by its owner"
	}
	if !r.Ignore {
		owners := Owners(users, r.Names)
		if len(owners) > 0 {
			c.lastUse, c.last = now, fmt.Sprintf("%s (%d)", owners[0].Name, owners[0].PID)
			return "in use by its owner: " + c.last
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

// reclaimed fails towards the owner: a file that is there and cannot be read takes all GPUs back.
func (r Rules) reclaimed(uuid string) bool {
	if r.ReclaimFile == "" {
		return false
	}
	raw, err := os.ReadFile(r.ReclaimFile)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	all := true
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if line == uuid {
			return true
		}
		all = false
	}
	return all
}
