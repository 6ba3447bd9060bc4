package nvml

import (
	"sync/atomic"
	"time"
)

// Trace tells which call a goroutine is in. One goroutine writes it, any may read it.
type Trace struct {
	current atomic.Pointer[Call]
}

// Call is a call that has begun and not returned.
type Call struct {
	Name  string
	Since time.Time
}

// Current is the call in progress, nil when there is none.
func (t *Trace) Current() *Call { return t.current.Load() }

func (t *Trace) begin(name string) { t.current.Store(&Call{Name: name, Since: time.Now()}) }
func (t *Trace) end()              { t.current.Store(nil) }
