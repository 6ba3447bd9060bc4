package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state"
)

// TestNulls checks that every endpoint that takes a job answers one with a null in it.
func TestNulls(t *testing.T) {
	p := newPool(t, france())
	for _, path := range []string{"/v1/jobs", "/v1/validate/job", "/v1/job/a/plan"} {
		for _, body := range []string{
			`null`, `{}`, `{"Job":null}`, `{"Job":{"ID":"a","TaskGroups":[null]}}`, `{"Job":{"ID":"a","TaskGroups":[{"Tasks":[null]}]}}`,
			`{"Job":{"ID":"a","TaskGroups":[{"Networks":[null]}]}}`, `{"Job":{"ID":"a","TaskGroups":[{"Volumes":{"v":null}}]}}`,
			`{"Job":{"ID":"a","TaskGroups":[{"Tasks":[{"Templates":[null]}]}]}}`, `{"Job":{"ID":"a","Multiregion":{"Regions":[null]}}}`,
		} {
			status, text, _ := p.do("PUT", path, "", body)
			must.Eq(t, http.StatusBadRequest, status, must.Sprint(path, body, text))
		}
	}
}

// TestHostileHeaders checks that nothing of a member's answer can act on a user's browser.
func TestHostileHeaders(t *testing.T) {
	for _, one := range []struct {
		name, kind, want string
		status           int
	}{
		{"a page", "text/html", "text/plain; charset=utf-8", 200},
		{"a drawing", "image/svg+xml", "text/plain; charset=utf-8", 404},
		{"no type", "", "text/plain; charset=utf-8", 302},
		{"JSON", "application/json", "application/json", 200},
	} {
		t.Run(one.name, func(t *testing.T) {
			response := &http.Response{StatusCode: one.status, Trailer: http.Header{"Set-Cookie": nil}, Header: http.Header{
				"Set-Cookie": {"a=b"}, "Location": {"http://evil.example"}, "Refresh": {"0"}, "Link": {"<x>"}, "Access-Control-Allow-Origin": {"*"},
				"X-Nomad-Index": {"7"}, "Content-Encoding": {"gzip"},
			}}
			response.Header.Set("Content-Type", one.kind)
			cleanHeaders(response)
			must.Eq(t, http.Header{
				"X-Nomad-Index": {"7"}, "Content-Encoding": {"gzip"}, "Content-Type": {one.want}, "X-Content-Type-Options": {"nosniff"},
				"Content-Security-Policy": {"default-src 'none'; sandbox"},
			}, response.Header)
			must.Nil(t, response.Trailer)
		})
	}
}

// TestHostileStatus checks that a member shows up only in jobs that it was given, and takes nobody's allocations.
func TestHostileStatus(t *testing.T) {
	p := newPool(t, france(), japan())
	p.run(testJob("web", "service", 1))
	p.eventually("an allocation", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 1 })
	mine := p.anyAlloc("web")
	jp := p.members["jp-tyo-1"]
	jp.send(pool.PathStatus, pool.Status{Allocations: []*api.AllocationListStub{
		nil,
		{ID: mine, Namespace: "default", JobID: "web", TaskGroup: "g"},
		{ID: newID(), Namespace: "default", JobID: "web", TaskGroup: "g"},
		{ID: newID(), Namespace: "default", JobID: "later", TaskGroup: "g"},
	}, Jobs: map[string]*api.JobSummary{"default/web": {Namespace: "default", JobID: "web"}, "x": nil}}, nil)
	p.errands.wait()
	// One that is its own does not move into a job of others.
	p.members["fr-par-1"].send(pool.PathStatus, pool.Status{Allocations: []*api.AllocationListStub{
		{ID: mine, Namespace: "theirs", JobID: "secret", TaskGroup: "g", ClientStatus: "running"},
	}}, nil)
	p.gateway.mu.Lock()
	defer p.gateway.mu.Unlock()
	must.MapEmpty(t, p.gateway.members["jp-tyo-1"].allocs)
	must.MapEmpty(t, p.gateway.members["jp-tyo-1"].summaries)
	must.Eq(t, "default", p.gateway.members["fr-par-1"].allocs[mine].Namespace)
	must.MapNotContainsKey(t, p.gateway.members["fr-par-1"].byJob, jobKey{"theirs", "secret"})
}

// TestStatusInParts checks that a full report in parts takes away what it does not name, and nothing else.
func TestStatusInParts(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.errands.wait()
	fr, m := p.members["fr-par-1"], p.gateway.members["fr-par-1"]
	mine := p.anyAlloc("web")
	part := func(id string) []*api.AllocationListStub {
		return []*api.AllocationListStub{{ID: id, Namespace: "default", JobID: "web", TaskGroup: "g", ClientStatus: "running"}}
	}
	fr.send(pool.PathStatus, pool.Status{Allocations: part("gone")}, nil)
	fr.send(pool.PathStatus, pool.Status{Allocations: part("first")}, nil)
	fr.send(pool.PathStatus, pool.Status{Full: true, Known: []string{mine, "first", "last", "never told of"}, Allocations: part("last")}, nil)
	p.gateway.mu.Lock()
	defer p.gateway.mu.Unlock()
	must.MapContainsKeys(t, m.allocs, []string{mine, "first", "last"})
	must.MapLen(t, 3, m.allocs)
	must.MapLen(t, 3, m.byJob[jobKey{"default", "web"}])
}

// TestForgedEvaluation is a job that a user wrote into Consul with the ID of another's evaluation.
func TestForgedEvaluation(t *testing.T) {
	p := newPool(t, france())
	eval := p.run(testJob("web", "service", 1))
	forged := testJob("forged", "service", 1)
	forged.Namespace = ptr("theirs")
	forged.Canonicalize()
	p.store.mu.Lock()
	p.store.jobs[jobKey{"theirs", "forged"}] = state.Job{Value: pool.JobRecord{Job: forged, EvalID: eval.ID}, Index: 99}
	p.store.mu.Unlock()
	must.NoError(t, p.gateway.refresh(t.Context(), jobKey{"theirs", "forged"}))
	after, _, err := p.client.Evaluations().Info(eval.ID, nil)
	must.NoError(t, err)
	must.Eq(t, "web", after.JobID)
	must.Eq(t, "complete", after.Status)
	p.eventually("the forged job has an evaluation of its own", func() bool {
		return len(p.gateway.evals.list(jobKey{"theirs", "forged"})) == 1
	})
}

// TestOneMessageAtATime checks that a member's messages are not held in memory side by side.
func TestOneMessageAtATime(t *testing.T) {
	p := newPool(t, france())
	fr := p.members["fr-par-1"]
	body, pipe := io.Pipe()
	first := make(chan error, 1)
	put := func(ctx context.Context, body io.Reader) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://gateway"+pool.PathStatus, body)
		must.NoError(t, err)
		response, err := fr.tunnel().Transport().RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	go func() { first <- put(t.Context(), body) }()
	// More than what the tunnel holds back for a reader: the gateway is reading.
	_, err := io.WriteString(pipe, `{"Later":"`+strings.Repeat("x", 2<<20))
	must.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	must.ErrorIs(t, put(ctx, strings.NewReader(`{}`)), context.DeadlineExceeded)
	_, err = io.WriteString(pipe, `"}`)
	must.NoError(t, err)
	must.NoError(t, pipe.Close())
	must.NoError(t, <-first)
	must.NoError(t, put(t.Context(), strings.NewReader(`{}`)))
}

// TestSlowBody checks that a caller that sends half a request and then nothing is given up.
func TestSlowBody(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.gateway.settings.bodyTime = 200 * time.Millisecond
	conn, err := net.Dial("tcp", p.server.Listener.Addr().String())
	must.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "PUT /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	must.NoError(t, err)
	must.NoError(t, conn.SetReadDeadline(time.Now().Add(soon)))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must.NoError(t, err)
	defer response.Body.Close()
	must.Eq(t, http.StatusRequestTimeout, response.StatusCode)
	// One whose body came in time may wait for longer than that.
	for _, text := range []string{"", "{}"} {
		for try := 0; ; try++ {
			request, err := http.NewRequest(http.MethodGet, p.server.URL+"/v1/jobs?wait=600ms&index="+strconv.FormatUint(1<<62, 10), strings.NewReader(text))
			must.NoError(t, err)
			begun := time.Now()
			answer, err := p.server.Client().Do(request)
			must.NoError(t, err)
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusRequestTimeout && try < 20 {
				continue // the machine had no time for us
			}
			must.Eq(t, http.StatusOK, answer.StatusCode)
			must.GreaterEq(t, 600*time.Millisecond, time.Since(begun), must.Sprint(text))
			break
		}
	}
}
