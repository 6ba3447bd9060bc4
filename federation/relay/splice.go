package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is a connection whose writing side can be closed by itself, such as *net.TCPConn and a tunnel's stream.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// Count is how many bytes went each way.
type Count struct {
	Out int64 // from the first stream to the second
	In  int64 // from the second stream to the first
}

// errIdle ends a splice on which nothing moved for the idle time.
var errIdle = errors.New("nothing was sent for the idle time")

// Splice copies between two streams until both directions have ended, the context ends, or nothing moved in either
// direction for idle (0: no limit). The end of one direction is passed on and leaves the other open. It closes both.
func Splice(ctx context.Context, first, second Stream, idle time.Duration) (Count, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closeBoth := sync.OnceFunc(func() {
		_ = first.Close()
		_ = second.Close()
	})
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	clock := newIdleClock(idle, func() { cancel(errIdle) })
	defer clock.stop()

	var out, in atomic.Int64
	errs := make(chan error, 2)
	go func() { errs <- copyOneWay(second, first, &out, clock) }()
	go func() { errs <- copyOneWay(first, second, &in, clock) }()
	var failure error
	for range 2 {
		err := <-errs
		if err != nil && failure == nil {
			failure = err
			closeBoth() // a broken direction cannot be told to the far end in any other way
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		failure = cause
	}
	return Count{Out: out.Load(), In: in.Load()}, failure
}

func copyOneWay(dst, src Stream, count *atomic.Int64, clock *idleClock) error {
	_, err := io.Copy(writerOnly{dst}, readerFunc(func(p []byte) (int, error) {
		n, err := src.Read(p)
		count.Add(int64(n))
		clock.touch()
		return n, err
	}))
	if err != nil {
		return err
	}
	err = dst.CloseWrite()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// writerOnly hides ReadFrom, which would take the data past the counter.
type writerOnly struct{ io.Writer }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// idleClock calls a function when it was not touched for a while. Touching is one atomic store, so that it can be done
// for every read.
type idleClock struct {
	idle   time.Duration
	last   atomic.Int64
	timer  *time.Timer
	mu     sync.Mutex
	ended  bool
	expire func()
}

func newIdleClock(idle time.Duration, expire func()) *idleClock {
	c := &idleClock{idle: idle, expire: expire}
	c.touch()
	if idle > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.timer = time.AfterFunc(idle, c.check)
	}
	return c
}

func (c *idleClock) touch() { c.last.Store(time.Now().UnixNano()) }

func (c *idleClock) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	left := c.idle - time.Since(time.Unix(0, c.last.Load()))
	if left <= 0 {
		c.expire()
		return
	}
	c.timer.Reset(left)
}

func (c *idleClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
}
