package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"pangaea/federation/pool"
)

// Stream is a raw byte stream inside a session. CloseWrite tells the peer that no more bytes come while its own
// still can; Close gives the stream up.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// conn is a yamux stream with the half-close that TCP connections have: yamux's Close only ends the writing side.
type conn struct {
	*yamux.Stream
	release func()
	closed  atomic.Bool
}

// CloseWrite implements Stream.
func (c *conn) CloseWrite() error { return c.Stream.Close() }

// Read implements Stream. What the peer sent in answer to Close is nobody's.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Close implements Stream. The deadline wakes readers, which yamux would leave waiting for the peer's end.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.release != nil {
		c.release()
	}
	err := c.Stream.Close()
	_ = c.SetReadDeadline(time.Unix(1, 0))
	return err
}

// bufferedStream first gives what was read past the HTTP header.
type bufferedStream struct {
	Stream
	reader *bufio.Reader
}

func (b *bufferedStream) Read(p []byte) (int, error) { return b.reader.Read(p) }

// OpenStream asks the peer for the raw stream at a path; the peer answers with [AcceptStream] or with an error, which
// is returned as *StreamError. The context bounds the opening only.
func (s *Session) OpenStream(ctx context.Context, path string, query url.Values) (Stream, error) {
	raw, err := s.open()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	stream, err := upgrade(raw.(*conn), path, query)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("cannot open stream %s to %s: %w", path, s.peer, err)
	}
	return stream, nil
}

// maxAnswerHeader bounds the header, or the refusal, that a peer answers with.
const maxAnswerHeader = 64 << 10

func upgrade(raw *conn, path string, query url.Values) (Stream, error) {
	target := url.URL{Scheme: "http", Host: "tunnel", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequest(http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", pool.UpgradeStream)
	err = request.Write(raw)
	if err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: raw, N: maxAnswerHeader} // a header without end would fill the memory
	reader := bufio.NewReader(limited)
	response, err := http.ReadResponse(reader, request)
	limited.N = math.MaxInt64
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		_ = response.Body.Close()
		return nil, &StreamError{Status: response.StatusCode, Text: string(text)}
	}
	return &bufferedStream{Stream: raw, reader: reader}, nil
}

// StreamError is a peer's refusal to open a raw stream.
type StreamError struct {
	Status int
	Text   string
}

// Error implements error.
func (e *StreamError) Error() string { return fmt.Sprintf("peer answered %d: %s", e.Status, e.Text) }

// AcceptStream turns a request that asked for [pool.UpgradeStream] into a raw stream. On an error it has answered.
func AcceptStream(w http.ResponseWriter, r *http.Request) (Stream, error) {
	if r.Header.Get("Upgrade") != pool.UpgradeStream {
		http.Error(w, "this path wants Upgrade: "+pool.UpgradeStream, http.StatusUpgradeRequired)
		return nil, errors.New("request does not ask for a stream")
	}
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "cannot take over the connection", http.StatusInternalServerError)
		return nil, fmt.Errorf("cannot take over the connection: %w", err)
	}
	stream, ok := raw.(Stream)
	if !ok {
		_ = raw.Close()
		return nil, fmt.Errorf("internal error: %T cannot be half closed", raw)
	}
	_ = raw.SetDeadline(time.Time{})
	_, err = io.WriteString(raw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+pool.UpgradeStream+"\r\n\r\n")
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("cannot answer the upgrade: %w", err)
	}
	return &bufferedStream{Stream: stream, reader: buffered.Reader}, nil
}

// streamListener gives a session's incoming streams to an http.Server, at most MaxStreams at a time: a peer that opens
// more has them closed at once rather than queued, so that it cannot make this side hold memory.
type streamListener struct {
	session *Session
	open    atomic.Int64
}

func newStreamListener(s *Session) *streamListener { return &streamListener{session: s} }

// Accept implements net.Listener.
func (l *streamListener) Accept() (net.Conn, error) {
	for {
		stream, err := l.session.mux.AcceptStream()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= int64(l.session.limits.MaxStreams) {
			return &conn{Stream: stream, release: func() { l.open.Add(-1) }}, nil
		}
		l.open.Add(-1)
		_ = stream.Close()
		l.session.logger.Warn("refusing a stream: the peer has too many open", "limit", l.session.limits.MaxStreams)
	}
}

// Close implements net.Listener; the session is closed by its owner.
func (l *streamListener) Close() error { return nil }

// Addr implements net.Listener.
func (l *streamListener) Addr() net.Addr { return l.session.mux.Addr() }
