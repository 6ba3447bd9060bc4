package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config says where workers reach the agent. Zero fields take defaults but for BindAddr and AdvertiseAddr.
type Config struct {
	BindAddr      string        // address to listen on
	AdvertiseAddr string        // address that the workers are told, BindAddr if empty
	PortMin       int           // first port to use, default 14000
	PortMax       int           // last port to use, default 14999
	MaxConns      int           // connections of one listener, default 1,024
	Reach         time.Duration // longest time to reach the far end, default 2 min
	Idle          time.Duration // longest silence on a connection, default 12 h
}

func (c Config) withDefaults() Config {
	if c.AdvertiseAddr == "" {
		c.AdvertiseAddr = c.BindAddr
	}
	if c.PortMin <= 0 {
		c.PortMin, c.PortMax = 14000, 14999
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 1024
	}
	if c.Reach <= 0 {
		c.Reach = 2 * time.Minute
	}
	if c.Idle <= 0 {
		c.Idle = 12 * time.Hour
	}
	return c
}

// Key names what a listener stands for: rank 0's port of a gang.
type Key struct {
	Namespace string // the pool's
	Job       string
	Group     string
	Port      string // label
}

// Dial reaches the far end of a connection.
type Dial func(context.Context, Key) (Stream, error)

// Relay owns the listeners of one member agent. Close it to end them.
type Relay struct {
	config Config
	dial   Dial
	logger hclog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu        sync.Mutex
	listeners map[Key]*listener
}

type listener struct {
	inner  net.Listener
	port   int
	cancel context.CancelFunc
}

// New returns a relay without listeners.
func New(config Config, dial Dial, logger hclog.Logger) *Relay {
	ctx, cancel := context.WithCancel(context.Background())
	return &Relay{
		config: config.withDefaults(), dial: dial, logger: logger, ctx: ctx, cancel: cancel,
		listeners: map[Key]*listener{},
	}
}

// Address is what workers are told.
func (r *Relay) Address() string { return r.config.AdvertiseAddr }

// Open listens for a key and returns the port. It takes the wanted port if that is not 0, which is how an agent that
// was restarted opens what its workers were told; a key that is open already keeps its port.
func (r *Relay) Open(key Key, want int) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if open, ok := r.listeners[key]; ok {
		return open.port, nil
	}
	if r.ctx.Err() != nil {
		return 0, errors.New("cannot open a relay port: the agent is stopping")
	}
	inner, err := r.listen(want)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	l := &listener{inner: inner, port: inner.Addr().(*net.TCPAddr).Port, cancel: cancel}
	r.listeners[key] = l
	r.group.Go(func() { r.serve(ctx, key, inner) })
	r.logger.Info("relay port is open", "namespace", key.Namespace, "job", key.Job, "group", key.Group, "port", l.port)
	return l.port, nil
}

func (r *Relay) listen(want int) (net.Listener, error) {
	first, last := r.config.PortMin, r.config.PortMax
	if want != 0 {
		first, last = want, want
	}
	var failure error
	for port := first; port <= last; port++ {
		inner, err := net.Listen("tcp", net.JoinHostPort(r.config.BindAddr, strconv.Itoa(port)))
		if err == nil {
			return inner, nil
		}
		failure = err
	}
	return nil, fmt.Errorf("cannot open a relay port on %s between %d and %d: %w: widen relay.port_min and port_max", r.config.BindAddr, first, last, failure)
}

// CloseKey ends a key's listener and connections.
func (r *Relay) CloseKey(key Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.listeners[key]; ok {
		_ = l.inner.Close() // at once: who asks for this wants the port free
		l.cancel()
		delete(r.listeners, key)
	}
}

// Keys lists what is open.
func (r *Relay) Keys() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]Key, 0, len(r.listeners))
	for key := range r.listeners {
		keys = append(keys, key)
	}
	return keys
}

// Close ends every listener and connection and waits for them.
func (r *Relay) Close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.group.Wait()
}

// serve accepts workers until the context ends.
func (r *Relay) serve(ctx context.Context, key Key, inner net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = inner.Close() })
	defer stop()
	defer inner.Close()
	var group sync.WaitGroup
	defer group.Wait()
	var open atomic.Int64
	for {
		conn, err := inner.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.logger.Warn("cannot accept a worker", "job", key.Job, "error", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		if open.Load() >= int64(r.config.MaxConns) {
			r.logger.Warn("refusing a worker: too many connections", "job", key.Job, "limit", r.config.MaxConns)
			_ = conn.Close()
			continue
		}
		open.Add(1)
		group.Go(func() {
			defer open.Add(-1)
			r.carry(ctx, key, conn.(*net.TCPConn))
		})
	}
}

// carry joins one worker with rank 0. The worker's connection is held while rank 0 is not up yet: to the worker it
// looks like a slow network, where an early close would look like a crashed peer.
func (r *Relay) carry(ctx context.Context, key Key, worker *net.TCPConn) {
	defer func() { _ = worker.Close() }()
	far, err := r.reach(ctx, key)
	if err != nil {
		r.logger.Warn("cannot reach rank 0", "job", key.Job, "group", key.Group, "error", err)
		return
	}
	count, err := Splice(ctx, worker, far, r.config.Idle)
	r.logger.Debug("worker's connection has ended", "job", key.Job, "group", key.Group,
		"bytes_out", count.Out, "bytes_in", count.In, "error", err)
}

func (r *Relay) reach(ctx context.Context, key Key) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Reach)
	defer cancel()
	wait := 50 * time.Millisecond
	for {
		far, err := r.dial(ctx, key)
		if err == nil {
			return far, nil
		}
		pause(ctx, wait)
		if ctx.Err() != nil {
			return nil, err
		}
		wait = min(2*wait, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
