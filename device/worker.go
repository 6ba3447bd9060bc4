package device

import (
	"context"
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
}

func startWorker(ctx context.Context) *worker {
	w := &worker{jobs: make(chan func())}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case job := <-w.jobs:
				job()
			}
		}
	}()
	return w
}

// do hands the worker a job as soon as it is free, and tells whether it took it within the patience given.
func (w *worker) do(patience time.Duration, job func()) bool {
	select {
	case w.jobs <- job:
		return true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case w.jobs <- job:
		return true
	case <-timer.C:
		return false
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
