package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds every answer but blobs: manifests, indexes, tokens, errors.
const maxAnswer = 4 << 20

func newBase(stall time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: stall,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   8,
		ReadBufferSize:        128 << 10,
		// Blobs are compressed already and must arrive as the registry holds them.
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
	}
}

// policy is the innermost transport: whatever library makes a request, for whatever reason, it passes here.
type policy struct {
	base     http.RoundTripper
	insecure []string
}

// errSecondWay answers the library's ping over plain HTTP, which it sends to what looks local as soon as HTTPS takes long
// or fails: what HTTPS met is the reason, and may pass.
var errSecondWay = errors.New("plain HTTP not tried")

func (p *policy) RoundTrip(req *http.Request) (*http.Response, error) {
	secure := !slices.Contains(p.insecure, req.URL.Host)
	if secure && req.URL.Scheme != "https" {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		if req.URL.Path == "/v2/" && req.Response == nil {
			return nil, errSecondWay
		}
		return nil, fmt.Errorf("%w by %s", ErrPlainHTTP, req.URL.Host)
	}
	resp, err := p.patiently(req)
	if secure && answersPlainly(err) {
		return nil, fmt.Errorf("%w by %s", ErrPlainHTTP, req.URL.Host)
	}
	if err != nil || isBlob(req) {
		return resp, err
	}
	resp.Body = &limited{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

// answersPlainly tells whether who was spoken to over TLS has answered in HTTP.
func answersPlainly(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/"
}

// A registry that says when to come back is taken at its word, within limits.
const (
	maxReturns = 3
	maxPause   = 20 * time.Second
)

func (p *policy) patiently(req *http.Request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		resp, err := p.base.RoundTrip(req)
		if err != nil || req.Body != nil || tries > maxReturns {
			return resp, err
		}
		pause, ok := comeBack(resp)
		if !ok {
			return resp, nil
		}
		_ = resp.Body.Close()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-req.Context().Done():
			timer.Stop()
			return nil, context.Cause(req.Context())
		}
	}
}

// comeBack tells how long the registry wants to be left alone.
func comeBack(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
	pause := time.Duration(seconds) * time.Second
	return pause, err == nil && pause <= maxPause
}

type blobKey struct{}

// isBlob knows a blob's request by its context, which redirects inherit, unlike the path.
func isBlob(req *http.Request) bool {
	return req.Context().Value(blobKey{}) != nil
}

type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(maxAnswer))
	}
	n, err := l.ReadCloser.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

// splitMirror cuts "host:port/prefix" into registry and path prefix.
func splitMirror(m string) (host, prefix string) {
	host, prefix, _ = strings.Cut(strings.TrimSuffix(m, "/"), "/")
	return host, prefix
}
