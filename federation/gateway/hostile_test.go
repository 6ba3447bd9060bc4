package gateway

import (
	"net/http"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
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
	p.gateway.mu.Lock()
	defer p.gateway.mu.Unlock()
	must.MapEmpty(t, p.gateway.members["jp-tyo-1"].allocs)
	must.MapEmpty(t, p.gateway.members["jp-tyo-1"].summaries)
}
