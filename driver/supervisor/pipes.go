package supervisor

import (
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/record"
	"pangaea/driver/sink"
)

// drainTime bounds how long a task's last output may take to be passed on by this process.
const drainTime = 2 * time.Second

// pipes are second ends of a task's output, which its shim carries. While this process holds them, the death of a shim is
// no end of the stream for Nomad's log collector, which would read no more, and what the task has written stays in
// the kernel until the next shim comes.
type pipes []pipe

type pipe struct{ source, sink int } // -1 if it could not be opened

// holdPipes opens what is there. Without it all goes on, but for what a killed shim would lose.
func holdPipes(dir string, launch *record.Launch) pipes {
	var held pipes
	for name, path := range map[string]string{"stdout.fifo": launch.Stdout, "stderr.fifo": launch.Stderr} {
		if path == "" {
			continue
		}
		p := pipe{sink: -1}
		var err error
		// For reading only: the shim must see the end when the task's last process has gone.
		p.source, err = unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			p.source = -1
		}
		p.sink, _, err = sink.Open(path)
		if err != nil {
			p.sink = -1
		}
		held = append(held, p)
	}
	return held
}

// HoldLogs holds the log FIFOs of a task whose earlier copy is about to end, until the next copy has them: Nomad's log
// collector, which it does not start anew for a start that it repeats, must not see an end in between. A path of ""
// is none.
func HoldLogs(paths ...string) (release func()) {
	var held pipes
	for _, path := range paths {
		fd, _, err := sink.Open(path)
		if err == nil {
			held = append(held, pipe{source: -1, sink: fd})
		}
	}
	return held.close
}

// drain passes on what a dead task's dead shim has left.
func (p pipes) drain() {
	deadline := time.Now().Add(drainTime)
	for _, one := range p {
		for one.source >= 0 && one.sink >= 0 && time.Now().Before(deadline) {
			n, err := unix.Splice(one.source, nil, one.sink, nil, 1<<16, unix.SPLICE_F_NONBLOCK)
			if errors.Is(err, unix.EAGAIN) && !empty(one.source) {
				time.Sleep(10 * time.Millisecond) // the log collector is slow
				continue
			}
			if err != nil || n == 0 {
				break
			}
		}
	}
}

// empty says whether a pipe holds nothing.
func empty(fd int) bool {
	held, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	return err != nil || held == 0
}

func (p pipes) close() {
	for _, one := range p {
		for _, fd := range []int{one.source, one.sink} {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}
}
