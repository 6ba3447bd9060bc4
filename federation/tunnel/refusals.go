package tunnel

import (
	"net"
	"sync"
	"time"
)

// refusals remembers what was logged, so that a member with a wrong certificate, which tries again every few seconds,
// costs one line for each cause and not the log.
type refusals struct {
	mu   sync.Mutex
	seen map[string]time.Time // by host and cause
}

const (
	refusalQuiet = 10 * time.Minute
	maxRefusals  = 1000
)

// isNew tells whether the same host was refused for the same cause a while ago at the latest.
func (r *refusals) isNew(remote string, cause error) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	key := host + " " + cause.Error()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil || len(r.seen) >= maxRefusals {
		r.seen = map[string]time.Time{}
	}
	last, known := r.seen[key]
	if known && time.Since(last) < refusalQuiet {
		return false
	}
	r.seen[key] = time.Now()
	return true
}
