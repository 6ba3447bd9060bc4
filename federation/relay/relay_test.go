package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/federation/leaktest"
	"pangaea/federation/relay"
	"pangaea/federation/state/statetest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// tcpPair returns two ends of one TCP connection.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	must.NoError(t, err)
	accepted, err := listener.Accept()
	must.NoError(t, err)
	t.Cleanup(func() {
		_ = dialled.Close()
		_ = accepted.Close()
	})
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestHalfClose checks that a request that ends by closing one direction is answered through a splice.
func TestHalfClose(t *testing.T) {
	client, left := tcpPair(t)
	right, server := tcpPair(t)
	type result struct {
		count relay.Count
		err   error
	}
	done := make(chan result, 1)
	go func() {
		count, err := relay.Splice(t.Context(), left, right, time.Minute)
		done <- result{count, err}
	}()
	_, err := client.Write([]byte("question"))
	must.NoError(t, err)
	must.NoError(t, client.CloseWrite())
	question, err := io.ReadAll(server) // ends only if the half-close was carried
	must.NoError(t, err)
	must.Eq(t, "question", string(question))
	_, err = server.Write([]byte("the answer"))
	must.NoError(t, err)
	must.NoError(t, server.Close())
	answer, err := io.ReadAll(client)
	must.NoError(t, err)
	must.Eq(t, "the answer", string(answer))
	got := <-done
	must.NoError(t, got.err)
	must.Eq(t, relay.Count{Out: 8, In: 10}, got.count)
}

func TestSpliceEnds(t *testing.T) {
	for name, test := range map[string]struct {
		idle time.Duration
		act  func(cancel context.CancelFunc, client, server *net.TCPConn)
		text string
	}{
		"idle":    {50 * time.Millisecond, func(context.CancelFunc, *net.TCPConn, *net.TCPConn) {}, "nothing was sent"},
		"context": {time.Minute, func(cancel context.CancelFunc, _, _ *net.TCPConn) { cancel() }, "canceled"},
		"reset": {time.Minute, func(_ context.CancelFunc, client, _ *net.TCPConn) {
			_ = client.SetLinger(0)
			_ = client.Close()
		}, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			client, left := tcpPair(t)
			right, server := tcpPair(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := relay.Splice(ctx, left, right, test.idle)
				done <- err
			}()
			test.act(cancel, client, server)
			must.ErrorContains(t, <-done, test.text)
			_, err := server.Read(make([]byte, 1))
			must.Error(t, err, must.Sprint("the far end must learn of it"))
		})
	}
}

// rank0 is a server that says who it is and echoes one line.
func rank0(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

var key = relay.Key{Namespace: "default", Job: "train", Group: "worker", Port: "rendezvous"}

func newRelay(t *testing.T, config relay.Config, dial relay.Dial) *relay.Relay {
	t.Helper()
	config.BindAddr = statetest.Loopback()
	r := relay.New(config, dial, hclog.NewNullLogger())
	t.Cleanup(r.Close)
	return r
}

// TestRelay checks that a worker who comes before rank 0 is up is held, not turned away.
func TestRelay(t *testing.T) {
	address := rank0(t)
	var tries atomic.Int32
	r := newRelay(t, relay.Config{}, func(_ context.Context, asked relay.Key) (relay.Stream, error) {
		must.Eq(t, key, asked)
		if tries.Add(1) < 3 {
			return nil, errors.New("rank 0 is not up yet")
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	})
	port, err := r.Open(key, 0)
	must.NoError(t, err)
	again, err := r.Open(key, 0)
	must.NoError(t, err)
	must.Eq(t, port, again)
	must.Eq(t, statetest.Loopback(), r.Address())
	must.Eq(t, []relay.Key{key}, r.Keys())
	worker, err := net.Dial("tcp", statetest.Loopback()+":"+strconv.Itoa(port))
	must.NoError(t, err)
	defer worker.Close()
	_, err = worker.Write([]byte("tensor"))
	must.NoError(t, err)
	must.NoError(t, worker.(*net.TCPConn).CloseWrite())
	text, err := io.ReadAll(worker)
	must.NoError(t, err)
	must.Eq(t, "tensor", string(text))
	must.Eq(t, 3, tries.Load())

	// A restarted agent opens the port that its workers were told.
	r.CloseKey(key)
	must.Len(t, 0, r.Keys())
	reopened := newRelay(t, relay.Config{}, nil)
	for {
		same, err := reopened.Open(key, port)
		if err == nil {
			must.Eq(t, port, same)
			break
		}
		must.NoError(t, t.Context().Err()) // the first listener is still closing
	}
}

func TestRelayLimits(t *testing.T) {
	hold := func(ctx context.Context, _ relay.Key) (relay.Stream, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r := newRelay(t, relay.Config{MaxConns: 1, Reach: 100 * time.Millisecond}, hold)
	port, err := r.Open(key, 0)
	must.NoError(t, err)
	address := statetest.Loopback() + ":" + strconv.Itoa(port)
	first, err := net.Dial("tcp", address)
	must.NoError(t, err)
	defer first.Close()
	second, err := net.Dial("tcp", address)
	must.NoError(t, err)
	defer second.Close()
	_, err = second.Read(make([]byte, 1))
	must.Error(t, err, must.Sprint("one too many is turned away"))
	_, err = first.Read(make([]byte, 1))
	must.Error(t, err, must.Sprint("rank 0 that never comes ends the wait"))

	full := newRelay(t, relay.Config{PortMin: port, PortMax: port}, hold)
	_, err = full.Open(key, 0)
	must.ErrorContains(t, err, "widen relay.port_min")
	full.Close()
	_, err = full.Open(key, 0)
	must.ErrorContains(t, err, "stopping")
}
