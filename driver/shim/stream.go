package main

import (
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/sink"
)

const (
	// bufferSize is what one stream holds in our own memory; the kernel holds the rest, in the two FIFOs.
	bufferSize = 8 << 10
	// passSize is the most that is moved in one step.
	passSize = 256 << 10
	// patience is how long a full log FIFO may hold up the task; then output is dropped until there is room.
	patience = time.Second
)

// stream carries one output of the task: source is our FIFO that the task writes, sink is Nomad's log FIFO.
type stream struct {
	path     string // Of the sink; "" means that output is not wanted.
	source   int
	taskEnd  int
	sink     int
	sinkNode uint64
	checked  time.Duration
	pending  []byte
	stalled  time.Duration // Since when the sink has been full; 0 means it isn't.
	dropping bool
	dropped  int64
	buffer   [bufferSize]byte
}

// openStreams opens the task's outputs: to create the sandbox with them, or to take them over.
func (s *shim) openStreams(create bool) error {
	var err error
	s.null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open /dev/null", err)
	}
	sinks := [2]string{s.conf.Stdout, s.conf.Stderr}
	names := [2]string{"stdout.fifo", "stderr.fifo"}
	for i := range s.out {
		out := &s.out[i]
		*out = stream{path: sinks[i], source: -1, sink: -1, taskEnd: s.null}
		if out.path == "" {
			continue
		}
		if s.conf.TTY || s.conf.Discard {
			// The terminal is the source of both outputs, or nothing is. Nomad's log reader waits for us all the same.
			err = out.openSink()
			if err != nil && create {
				return err
			}
			continue
		}
		err = out.openSource(filepath.Join(s.dir, names[i]), create, s.conf.StdioUID, s.conf.StdioGID)
		if err != nil {
			return err
		}
		// A log FIFO that is missing when a task is taken over may come back; to start without is a mistake.
		if create {
			_, err = sink.Inode(out.path)
			if err != nil {
				return err
			}
			continue
		}
		_ = out.openSink()
	}
	return nil
}

// openSinks opens Nomad's log FIFOs for a task that is about to start. It is not done before: a start that is given up
// would be the FIFO's end for Nomad's log collector, and it would read nothing of the next one.
func (s *shim) openSinks() error {
	for i := range s.out {
		if s.out[i].path == "" {
			continue
		}
		err := s.out[i].openSink()
		if err != nil {
			return err
		}
	}
	return nil
}

// openSource opens the FIFO that the task writes. The task's end is opened for reading too, so that a shim that is
// killed does not get the task a SIGPIPE; the FIFO has a name, so that the next shim can open it.
func (o *stream) openSource(path string, create bool, uid, gid int) error {
	if create {
		err := mkfifo(path, uid, gid)
		if err != nil {
			return err
		}
	}
	var err error
	o.source, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open "+path, err)
	}
	if !create {
		return nil
	}
	o.taskEnd, err = unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap("open "+path, err)
	}
	return nil
}

// mkfifo makes a FIFO whose owner is the task's user: others could not open their own /dev/stdout.
func mkfifo(path string, uid, gid int) error {
	err := unix.Mkfifo(path, 0o600)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return wrap("make "+path, err)
	}
	err = unix.Lchown(path, uid, gid)
	if err != nil {
		return wrap("give the task "+path, err)
	}
	return nil
}

// closeTaskEnds leaves the task as the only holder of its files, so that its end is the streams' end.
func (s *shim) closeTaskEnds() {
	if s.stdin != s.null {
		_ = unix.Close(s.stdin)
		s.stdin = s.null
	}
	for i := range s.out {
		if s.out[i].taskEnd != s.null {
			_ = unix.Close(s.out[i].taskEnd)
			s.out[i].taskEnd = s.null
		}
	}
}

// openSink opens Nomad's log FIFO.
func (o *stream) openSink() error {
	fd, node, err := sink.Open(o.path)
	if err != nil {
		return err
	}
	o.closeSink()
	o.sink, o.sinkNode = fd, node
	return nil
}

func (o *stream) closeSink() {
	if o.sink >= 0 {
		_ = unix.Close(o.sink)
		o.sink = -1
	}
}

// follow reopens the log FIFO if there is a new one under its name: Nomad makes it anew after some restarts.
// It looks at most once a second.
func (o *stream) follow(at time.Duration) {
	if at-o.checked < time.Second || o.path == "" {
		return
	}
	o.checked = at
	node, err := sink.Inode(o.path)
	if err == nil && (o.sink < 0 || node != o.sinkNode) {
		_ = o.openSink()
	}
}

// pollFd is what the stream waits for: room in the sink, or else something to read.
func (o *stream) pollFd() unix.PollFd {
	if len(o.pending) > 0 {
		return unix.PollFd{Fd: int32(o.sink), Events: unix.POLLOUT}
	}
	return unix.PollFd{Fd: int32(o.source), Events: unix.POLLIN}
}

// move passes on what the task wrote, or keeps it pending while the sink has no room.
func (o *stream) move(ready bool) {
	if len(o.pending) == 0 && ready && o.source >= 0 && (o.pass() || !o.read()) {
		return
	}
	if len(o.pending) > 0 {
		o.write(now())
	}
}

// pass moves what the task wrote from FIFO to FIFO within the kernel: a shim that is killed in the middle loses no byte.
// It says false when nothing moved, because the sink is full or gone, or the source empty or at its end.
func (o *stream) pass() bool {
	o.follow(now())
	if o.sink < 0 || o.dropping {
		return false
	}
	n, err := unix.Splice(o.source, nil, o.sink, nil, passSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if err != nil || n <= 0 {
		return false
	}
	o.stalled = 0
	return true
}

// read takes what the task wrote, and says false at the stream's end.
func (o *stream) read() bool {
	n, err := unix.Read(o.source, o.buffer[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return true
	}
	if err != nil || n == 0 {
		_ = unix.Close(o.source)
		o.source = -1
		return false
	}
	o.pending = o.buffer[:n]
	return true
}

// left is what nobody has read of what the task wrote.
func (o *stream) left() int64 {
	if o.source < 0 {
		return 0
	}
	held, err := unix.IoctlGetInt(o.source, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return int64(held)
}

// write passes on what is pending. A sink that stays full is given up on for as long as it is full.
func (o *stream) write(at time.Duration) {
	o.follow(at)
	for len(o.pending) > 0 {
		n, err := unix.Write(o.sink, o.pending)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n > 0 {
			o.pending = o.pending[n:]
			o.stalled, o.dropping = 0, false
			continue
		}
		if o.stalled == 0 {
			o.stalled = at
		}
		if o.dropping || at-o.stalled >= patience {
			o.dropping = true
			o.dropped += int64(len(o.pending))
			o.pending = nil
		}
		return
	}
}
