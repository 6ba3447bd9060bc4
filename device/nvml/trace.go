package nvml

import (
	"sync"
	"time"
)

// Trace tells which call a goroutine is in. One goroutine writes it, any may read it.
type Trace struct {
	mu      sync.Mutex
	current Call
}

// Call is a call that has begun and not returned.
type Call struct {
	Name  string
	Since time.Time
}

// Current is the call in progress, nil when there is none.
func (t *Trace) Current() *Call {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current.Name == "" {
		return nil
	}
	call := t.current
	return &call
}

func (t *Trace) begin(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = Call{Name: name, Since: time.Now()}
}

func (t *Trace) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = Call{}
}
