package gateway

import "sync"

// errands counts work that is under way. Unlike a [sync.WaitGroup] it may be waited for while more is begun.
type errands struct {
	mu    sync.Mutex
	count int
	idle  chan struct{} // closed when none is left, nil if nobody waits
}

func (e *errands) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count++
}

func (e *errands) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count--
	if e.count == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}

func (e *errands) run(errand func()) {
	e.begin()
	go func() {
		defer e.end()
		errand()
	}()
}

func (e *errands) wait() {
	e.mu.Lock()
	if e.count == 0 {
		e.mu.Unlock()
		return
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	idle := e.idle
	e.mu.Unlock()
	<-idle
}
