package device

import (
	"context"
	"sync/atomic"
	"time"

	"pangaea/device/nvml"
)

// stagger is how long a GPU is waited for before the next one is asked too. Those that answer promptly are so asked one after
// another: all at once they would only queue up at the driver's lock, each on a thread of its own.
const stagger = 20 * time.Millisecond

// worker makes the NVML calls of one GPU, or of the library, one after another. A call may hang for ever; then the
// worker does, and nobody else. It ends with its context, once it is not in a call.
type worker struct {
	trace nvml.Trace
	jobs  chan func()
	ended chan struct{} // closed when it has
	after after
	busy  atomic.Int32 // jobs that it has, or is being handed
}

// after is [time.After], which tests replace: they know who hangs, and wait for all others.
type after func(time.Duration) <-chan time.Time

// over is a patience that is at its end.
func over() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

func startWorker(ctx context.Context, after after) *worker {
	w := &worker{jobs: make(chan func()), ended: make(chan struct{}), after: after}
	go func() {
		defer close(w.ended)
		for {
			select {
			case <-ctx.Done():
				return
			case job := <-w.jobs:
				job()
				w.busy.Add(-1)
			}
		}
	}()
	return w
}

// do hands the worker a job as soon as it is free, and tells whether it took it within the patience given.
func (w *worker) do(patience time.Duration, job func()) bool {
	w.busy.Add(1)
	select {
	case w.jobs <- job:
		return true
	default:
	}
	select {
	case w.jobs <- job:
		return true
	case <-w.ended:
	case <-w.after(patience):
	}
	w.busy.Add(-1)
	return false
}

// take waits for what a worker sends, for as long as the patience lasts. One that was at its end stays so.
func take[T any](from <-chan T, enough *<-chan time.Time) (v T, ok bool) {
	select {
	case v = <-from:
		return v, true
	default:
	}
	select {
	case v = <-from:
		return v, true
	case <-*enough:
		*enough = over()
	}
	select { // it may have come at the same moment
	case v = <-from:
		return v, true
	default:
		return v, false
	}
}

// hang says what the worker has been stuck in for longer than the limit; the words stay the same for as long as it is.
func (w *worker) hang(limit time.Duration, now time.Time) string {
	call := w.trace.Current()
	if call == nil || now.Sub(call.Since) < limit {
		return ""
	}
	return "NVML call " + call.Name + " hangs since " + call.Since.Format("15:04:05")
}
