package gateway

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/scheduler"
	"pangaea/federation/state"
)

// apiError is an answer in Nomad's manner: a status and one line of plain text.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

func fail(status int, format string, args ...any) error {
	return &apiError{status: status, text: fmt.Sprintf(format, args...)}
}

// handler answers one endpoint. What it returns is sent as JSON with the index; nil with no error sends nothing more.
type handler func(w http.ResponseWriter, r *call) (any, error)

// call is one request to the API.
type call struct {
	*http.Request
	token     string
	namespace string
	region    string // a member's alias, or "" for the whole pool
	index     uint64 // of what the answer shows; 0 sends the gateway's own
}

func (g *Gateway) newCall(r *http.Request) (*call, error) {
	c := &call{Request: r, token: tokenOf(r), namespace: or(r.URL.Query().Get("namespace"), "default")}
	region := r.URL.Query().Get("region")
	if scheduler.Anywhere(region) || strings.HasPrefix(r.URL.Path, "/v1/agent/") || r.URL.Path == "/v1/regions" {
		return c, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members[region] == nil {
		return nil, fail(http.StatusInternalServerError, "No path to region")
	}
	c.region = region
	return c, nil
}

// tokenOf finds the user's token where Nomad's clients put it. It is a token of the pool's Consul.
func tokenOf(r *http.Request) string {
	if token := r.Header.Get("X-Nomad-Token"); token != "" {
		return strings.TrimSpace(token)
	}
	bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if ok {
		return strings.TrimSpace(bearer)
	}
	return ""
}

// handle wraps a handler with what all endpoints share.
func (g *Gateway) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			r.Body = g.timed(w, http.MaxBytesReader(w, r.Body, g.settings.maxBody))
		}
		c, err := g.newCall(r)
		if err != nil {
			g.writeError(w, r, err)
			return
		}
		out, err := h(w, c)
		if err != nil {
			g.writeError(w, r, err)
			return
		}
		if out == nil {
			return
		}
		// Nomad's client reads these in this order and stops at the first that is missing; without an index above zero
		// it would poll as fast as it can.
		header := w.Header()
		header.Set("X-Nomad-Index", strconv.FormatUint(max(or(c.index, g.index.current()), 1), 10))
		header.Set("X-Nomad-LastContact", "0")
		header.Set("X-Nomad-KnownLeader", "true")
		writeBody(w, r, out)
	}
}

// timedBody is a request's body that must come within a time. The handler may take longer: the deadline ends with the
// body, since one that passes later would end the request.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (g *Gateway) timed(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	control := http.NewResponseController(w)
	err := control.SetReadDeadline(time.Now().Add(g.settings.bodyTime))
	if err != nil { // no connection
		return body
	}
	return &timedBody{ReadCloser: body, control: control}
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// writeBody compresses for those who ask, as Nomad does.
func writeBody(w http.ResponseWriter, r *http.Request, out any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_ = json.NewEncoder(w).Encode(out)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	_ = json.NewEncoder(packed).Encode(out)
	_ = packed.Close()
}

func writeJSON(w http.ResponseWriter, out any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (g *Gateway) writeError(w http.ResponseWriter, r *http.Request, err error) {
	status, text := describe(err)
	if status >= http.StatusInternalServerError {
		g.logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", status, "error", text)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

func writeStoreError(w http.ResponseWriter, err error) {
	status, text := describe(err)
	http.Error(w, text, status)
}

// describe gives an error the status and the words that Nomad's tools expect.
func describe(err error) (int, string) {
	var own *apiError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &own):
		return own.status, own.text
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, "the request's body took too long: send it again"
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("request is larger than %d bytes: raise limits.max_body_bytes or send less", large.Limit)
	case errors.Is(err, state.ErrPermission):
		return http.StatusForbidden, api.PermissionDeniedErrorContent
	case errors.Is(err, state.ErrTooLarge):
		return http.StatusRequestEntityTooLarge, err.Error()
	case errors.Is(err, state.ErrInvalid):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, state.ErrNotFound):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, state.ErrConflict):
		return http.StatusConflict, err.Error() + ": try again"
	}
	return http.StatusInternalServerError, err.Error()
}

// decode reads a request's JSON. Unknown fields are ignored, as Nomad ignores them.
func decode(c *call, into any) error {
	err := json.NewDecoder(c.Body).Decode(into)
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fail(http.StatusBadRequest, "cannot decode the request: %s", err)
	}
	return err
}

// canRead and canWrite let Consul decide what a token may do with the jobs of a namespace.
func (g *Gateway) canRead(c *call, namespace string) error {
	return g.store.CanRead(c.Context(), c.token, namespace)
}

func (g *Gateway) canWrite(c *call, namespace string) error {
	return g.store.CanWrite(c.Context(), c.token, namespace)
}

// visible returns a test for what a list may show: the namespace that was asked for, or with "*" all that the token may
// read. Asking for one namespace without the right to it is an error.
func (g *Gateway) visible(c *call) (func(namespace string) bool, error) {
	if c.namespace != "*" {
		err := g.canRead(c, c.namespace)
		return func(namespace string) bool { return namespace == c.namespace }, err
	}
	known := map[string]bool{}
	return func(namespace string) bool {
		allowed, ok := known[namespace]
		if !ok {
			allowed = g.canRead(c, namespace) == nil
			known[namespace] = allowed
		}
		return allowed
	}, nil
}

const (
	defaultWait = 5 * time.Minute
	maxWait     = 10 * time.Minute
)

// wait makes a request a blocking query: it returns when current is above the index that the request names, or its
// time is up. current is called with mu held. What the handler looks at afterwards is at least as new as the answer's
// index then: a change in between is for the next query to show.
func (g *Gateway) wait(c *call, current func() uint64) {
	defer func() { c.index = g.index.current() }()
	query := c.URL.Query()
	after, err := strconv.ParseUint(query.Get("index"), 10, 64)
	if err != nil || after == 0 {
		return
	}
	limit := defaultWait
	asked, err := time.ParseDuration(query.Get("wait"))
	if err == nil && asked > 0 {
		limit = min(asked, maxWait)
	}
	g.until(c.Context(), limit, func() bool { return current() > after })
}

// until waits for a condition, which is looked at with mu held after every change.
func (g *Gateway) until(ctx context.Context, limit time.Duration, met func() bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		g.mu.Lock()
		pulse, ok := g.pulse, met()
		g.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-pulse:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
