package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

// do sends one request with a token and returns the answer.
func (p *fakePool) do(method, path, token string, body any) (int, string, http.Header) {
	p.t.Helper()
	var reader io.Reader
	switch text := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(text)
	default:
		data, err := json.Marshal(body)
		must.NoError(p.t, err)
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequest(method, p.server.URL+path, reader)
	must.NoError(p.t, err)
	request.Header.Set("X-Nomad-Token", token)
	response, err := p.server.Client().Do(request)
	must.NoError(p.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must.NoError(p.t, err)
	return response.StatusCode, string(text), response.Header
}

// TestRights checks each kind of request with a token that Consul denies everything, and one that may only read.
func TestRights(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.eventually("an allocation", func() bool { return len(p.gateway.members["fr-par-1"].allocs) == 1 })
	p.store.mu.Lock()
	p.store.denied["none"], p.store.readOnly["reader"] = true, true
	p.store.mu.Unlock()
	stubs, _, err := p.client.Jobs().Allocations("web", false, nil)
	must.NoError(t, err)
	alloc, node := stubs[0].ID, stubs[0].NodeID
	evals, _, err := p.client.Jobs().Evaluations("web", nil)
	must.NoError(t, err)
	job := api.JobRegisterRequest{Job: testJob("web", "service", 1)}
	for _, one := range []struct {
		method, path string
		body         any
		write        bool
	}{
		{"GET", "/v1/jobs", nil, false},
		{"GET", "/v1/job/web", nil, false},
		{"GET", "/v1/job/none", nil, false},
		{"GET", "/v1/job/web/summary", nil, false},
		{"GET", "/v1/job/web/allocations", nil, false},
		{"GET", "/v1/job/web/evaluations", nil, false},
		{"GET", "/v1/job/web/versions", nil, false},
		{"GET", "/v1/job/web/deployment", nil, false},
		{"GET", "/v1/job/web/scale", nil, false},
		{"GET", "/v1/evaluations", nil, false},
		{"GET", "/v1/evaluation/" + evals[0].ID, nil, false},
		{"GET", "/v1/evaluation/" + evals[0].ID + "/allocations", nil, false},
		{"GET", "/v1/deployments", nil, false},
		{"GET", "/v1/deployment/" + deploymentOf(t, p, "web"), nil, false},
		{"GET", "/v1/allocations", nil, false},
		{"GET", "/v1/allocation/" + alloc, nil, false},
		{"GET", "/v1/client/fs/logs/" + alloc + "?task=t&type=stdout", nil, false},
		{"GET", "/v1/client/allocation/" + alloc + "/stats", nil, false},
		{"GET", "/v1/nodes", nil, false},
		{"GET", "/v1/node/" + node, nil, false},
		{"GET", "/v1/node/" + node + "/allocations", nil, false},
		{"GET", "/v1/client/stats?node_id=" + node, nil, false},
		{"GET", "/v1/agent/members", nil, false},
		{"GET", "/v1/namespace/default", nil, false},
		{"PUT", "/v1/search", map[string]string{"Prefix": "w"}, false},
		{"PUT", "/v1/validate/job", job, false},
		{"PUT", "/v1/job/web/plan", job, false},
		{"PUT", "/v1/jobs", job, true},
		{"PUT", "/v1/job/web", job, true},
		{"PUT", "/v1/job/web/evaluate", map[string]string{}, true},
		{"PUT", "/v1/job/web/scale", map[string]any{"Count": 1, "Target": map[string]string{"Group": "g"}}, true},
		{"PUT", "/v1/job/web/revert", map[string]any{"JobVersion": 7}, false}, // there is no such version: 404 either way
		{"PUT", "/v1/allocation/" + alloc + "/stop", map[string]string{}, true},
		{"PUT", "/v1/client/allocation/" + alloc + "/signal", map[string]string{"Signal": "SIGHUP"}, true},
		{"PUT", "/v1/client/allocation/" + alloc + "/restart", map[string]string{}, true},
		{"GET", "/v1/client/allocation/" + alloc + "/exec?task=t&command=[]", nil, true},
		{"DELETE", "/v1/job/web", nil, true},
		{"DELETE", "/v1/job/web?purge=true", nil, true},
	} {
		t.Run(one.method+" "+one.path, func(t *testing.T) {
			status, text, _ := p.do(one.method, one.path, "none", one.body)
			must.Eq(t, http.StatusForbidden, status)
			must.Eq(t, "Permission denied", text)
			status, _, _ = p.do(one.method, one.path, "reader", one.body)
			must.Eq(t, one.write, status == http.StatusForbidden, must.Sprintf("a reader got %d", status))
		})
	}
	must.Eq(t, "running", p.statusOf("web"))
	// What is listed over all namespaces is what may be read, and nothing when nothing may.
	status, text, _ := p.do("GET", "/v1/jobs?namespace=*", "none", nil)
	must.Eq(t, http.StatusOK, status)
	must.Eq(t, "[]\n", text)
}

// TestBadInput checks that each mistake gets one clear answer, and that the gateway lives on.
func TestBadInput(t *testing.T) {
	p := newPool(t, france())
	with := func(edit func(*api.Job)) api.JobRegisterRequest {
		job := testJob("bad", "service", 1)
		edit(job)
		return api.JobRegisterRequest{Job: job}
	}
	meta := func(key, value string) api.JobRegisterRequest {
		return with(func(j *api.Job) { j.Meta = map[string]string{key: value} })
	}
	for _, one := range []struct {
		name, method, path string
		body               any
		status             int
		want               string
	}{
		{"no JSON", "PUT", "/v1/jobs", "{", 400, "cannot decode the request"},
		{"no job", "PUT", "/v1/jobs", "{}", 400, "Job must be specified"},
		{"unknown fields are tolerated", "PUT", "/v1/validate/job", `{"Later":1,"Job":{"ID":"x","Name":"x","Datacenters":["*"],"TaskGroups":[]}}`, 200, "Missing job task groups"},
		{"no groups", "PUT", "/v1/jobs", with(func(j *api.Job) { j.TaskGroups = nil }), 400, "Missing job task groups"},
		{"no driver", "PUT", "/v1/jobs", with(func(j *api.Job) { j.TaskGroups[0].Tasks[0].Driver = "" }), 400, "Missing task driver"},
		{"bad constraint", "PUT", "/v1/jobs", with(func(j *api.Job) { j.Constraints = []*api.Constraint{api.NewConstraint("a", "regexp", "(")} }), 400, "Regular expression failed to compile"},
		{"bad namespace", "PUT", "/v1/jobs", with(func(j *api.Job) { j.Namespace = ptr("../x") }), 400, "cannot be a namespace"},
		{"namespace star", "PUT", "/v1/jobs?namespace=*", with(func(*api.Job) {}), 400, "name the job's namespace"},
		{"other ID in the path", "PUT", "/v1/job/web", with(func(*api.Job) {}), 400, "does not match"},
		{"unknown member", "PUT", "/v1/jobs", with(func(j *api.Job) { j.Region = ptr("mars") }), 400, `no member of the pool is called "mars"`},
		{"unknown region", "GET", "/v1/jobs?region=mars", nil, 500, "No path to region"},
		{"periodic", "PUT", "/v1/jobs", with(func(j *api.Job) {
			j.Type, j.Periodic = ptr("batch"), &api.PeriodicConfig{Enabled: ptr(true), Spec: ptr("* * * * *"), SpecType: ptr("cron")}
		}), 400, "does not run periodic"},
		{"misspelt gang", "PUT", "/v1/jobs", meta(pool.MetaGang, "yes"), 400, `use one of ["true" "false"]`},
		{"misspelt colocate", "PUT", "/v1/jobs", meta(pool.MetaColocate, "city"), 400, "continent"},
		{"no number", "PUT", "/v1/jobs", meta(pool.MetaMaxPrice, "NaN"), 400, "use a number"},
		{"the pool's own meta", "PUT", "/v1/jobs", meta(pool.MetaPlacement, "x"), 400, "is the pool's own"},
		{"no such job", "GET", "/v1/job/none", nil, 404, "job not found"},
		{"no such job to stop", "DELETE", "/v1/job/none", nil, 404, "job not found"},
		{"no such eval", "GET", "/v1/evaluation/none", nil, 404, "eval not found"},
		{"no such alloc", "GET", "/v1/allocation/none", nil, 404, "alloc not found"},
		{"no such node", "GET", "/v1/node/none", nil, 404, "node not found"},
		{"no such deployment", "GET", "/v1/deployment/none", nil, 404, "deployment not found"},
		{"bad filter", "GET", "/v1/jobs?filter=%28", nil, 400, "failed to read filter"},
		{"bad page", "GET", "/v1/jobs?per_page=x", nil, 400, "per_page must be a number"},
		{"enforced index", "PUT", "/v1/jobs", api.JobRegisterRequest{Job: testJob("new", "service", 1), EnforceIndex: true, JobModifyIndex: 7}, 409, "Enforcing job modify index 7: job does not exist"},
		{"not the pool's", "PUT", "/v1/node/x/drain", "{}", 501, "the pool does not answer PUT /v1/node/x/drain"},
		{"an ID that climbs", "GET", "/v1/job/..%2F..%2Fleader", nil, 404, "job not found"},
		{"too large a body", "PUT", "/v1/jobs", `{"X":"` + strings.Repeat("x", 9<<20) + `"}`, 413, "raise limits.max_body_bytes"},
	} {
		t.Run(one.name, func(t *testing.T) {
			status, text, _ := p.do(one.method, one.path, "user", one.body)
			must.Eq(t, one.status, status, must.Sprint(text))
			must.StrContains(t, text, one.want)
		})
	}
	must.MapEmpty(t, p.store.jobs)
	p.store.maxJobSize = 10
	status, text, _ := p.do("PUT", "/v1/jobs", "user", api.JobRegisterRequest{Job: testJob("big", "service", 1)})
	must.Eq(t, http.StatusRequestEntityTooLarge, status)
	must.StrContains(t, text, "too large")
	p.store.maxJobSize, p.store.down = 0, errDown
	status, text, _ = p.do("PUT", "/v1/jobs", "user", api.JobRegisterRequest{Job: testJob("big", "service", 1)})
	must.Eq(t, http.StatusInternalServerError, status)
	must.StrContains(t, text, "cannot reach Consul at 127.0.0.1:8500")
	p.store.down = nil
}

// TestHeaders checks what Nomad's client needs to not poll in circles.
func TestHeaders(t *testing.T) {
	p := newPool(t, france())
	for i := range 3 {
		p.run(testJob(fmt.Sprintf("web-%d", i), "service", 1))
	}
	_, _, header := p.do("GET", "/v1/jobs?per_page=2", "user", nil)
	must.Eq(t, "default.web-2", header.Get("X-Nomad-NextToken"))
	must.Eq(t, "0", header.Get("X-Nomad-LastContact"))
	must.Eq(t, "true", header.Get("X-Nomad-KnownLeader"))
	must.NotEq(t, "", header.Get("X-Nomad-Index"))
	stubs, meta, err := p.client.Jobs().List(&api.QueryOptions{PerPage: 2, NextToken: "default.web-2", Filter: `Type == "service"`})
	must.NoError(t, err)
	must.Len(t, 1, stubs)
	must.NotNil(t, stubs[0].JobSummary)
	must.Eq(t, "", meta.NextToken)
	must.Positive(t, meta.LastIndex)
	stubs, _, err = p.client.Jobs().List(&api.QueryOptions{Prefix: "web-1", Filter: `ParentID == "" and ParameterizedJob is not nil`})
	must.NoError(t, err)
	must.SliceEmpty(t, stubs)
}

// TestBlockingQuery checks that a query with an index waits for a change of its own job and for nothing longer.
func TestBlockingQuery(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.eventually("registered and reported", func() bool {
		j := p.gateway.jobs[jobKey{"default", "web"}]
		return len(p.gateway.stubs(j)) == 1 && j.set.Placements[0].State == pool.PlacementRegistered
	})
	_, meta, err := p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	answered := make(chan uint64, 1)
	go func() { // ends with the answer below
		_, next, _ := p.client.Jobs().Info("web", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 9 * time.Minute})
		answered <- next.LastIndex
	}()
	p.run(testJob("other", "service", 1))
	select {
	case <-answered:
		t.Fatal("woken by another job")
	case <-time.After(100 * time.Millisecond):
	}
	p.run(testJob("web", "service", 2))
	must.Greater(t, meta.LastIndex, <-answered)
	begun := time.Now()
	_, _, err = p.client.Jobs().Info("web", &api.QueryOptions{WaitIndex: 1 << 62, WaitTime: 50 * time.Millisecond})
	must.NoError(t, err)
	must.Less(t, defaultWait, time.Since(begun))
}

func TestIndexNeverGoesBack(t *testing.T) {
	now := time.UnixMilli(1000)
	i := newIndex(func() time.Time { return now })
	must.Eq(t, 1000, i.current())
	must.Eq(t, 1001, i.next())
	now = time.UnixMilli(500) // the clock was set back
	must.Eq(t, 1002, i.next())
	now = time.UnixMilli(5000)
	must.Eq(t, 5000, i.next())
	i.observe(9000)
	i.observe(10)
	must.Eq(t, 9001, i.next())
	must.Eq(t, 1, newIndex(func() time.Time { return time.Time{} }).current())
}

// TestConflictingWrite is a job that another gateway changed behind this one's back.
func TestConflictingWrite(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.store.mu.Lock()
	p.store.beforePut = func() {
		p.store.mu.Lock()
		defer p.store.mu.Unlock()
		entry := p.store.jobs[jobKey{"default", "web"}]
		p.store.index++
		entry.Index = p.store.index
		entry.Value.Job.Version = ptr(uint64(5))
		p.store.jobs[jobKey{"default", "web"}] = entry
	}
	p.store.mu.Unlock()
	p.run(testJob("web", "service", 3))
	must.Eq(t, map[string]int{"fr-par-1": 3}, p.live("web"))
	job, _, err := p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, 6, *job.Version)
}

// TestEvaluationOfANewerVersion registers a version while the one before is being placed: the placement of the older one
// says nothing about the newer.
func TestEvaluationOfANewerVersion(t *testing.T) {
	p := newPool(t, france())
	reached, release := make(chan struct{}), make(chan struct{})
	m := p.members["fr-par-1"]
	m.set(func() { m.before = func() { close(reached); <-release } })
	older, _, err := p.client.Jobs().Register(testJob("web", "service", 1), nil)
	must.NoError(t, err)
	<-reached
	newer, _, err := p.client.Jobs().Register(testJob("web", "service", 3), nil)
	must.NoError(t, err)
	close(release)
	eval := p.await(newer.EvalID)
	must.Eq(t, "complete", eval.Status)
	must.Eq(t, map[string]int{"g": 0}, eval.QueuedAllocations)
	must.Eq(t, map[string]int{"fr-par-1": 3}, p.live("web"))
	eval = p.await(older.EvalID)
	must.Eq(t, "canceled", eval.Status)
	must.Eq(t, newer.EvalID, eval.NextEval)
}

// TestOvertakenWrite is a caller that hears of its own write only after somebody else has changed the job again.
func TestOvertakenWrite(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.store.afterWrite = func() { p.run(testJob("web", "service", 3)) }
	p.run(testJob("web", "service", 2))
	job, _, err := p.client.Jobs().Info("web", nil)
	must.NoError(t, err)
	must.Eq(t, 3, *job.TaskGroups[0].Count)
	must.Eq(t, map[string]int{"fr-par-1": 3}, p.live("web"))

	p.store.afterWrite = func() { p.run(testJob("web", "service", 2)) }
	_, _, err = p.client.Jobs().Deregister("web", true, nil)
	must.NoError(t, err)
	p.eventually("run again after its purge", func() bool {
		j := p.gateway.jobs[jobKey{"default", "web"}]
		// Those of the purged job may have to go first.
		return j != nil && j.known && j.evalID == "" && maps.Equal(map[string]int{"fr-par-1": 2}, p.live("web"))
	})
}

// TestIndexOfLists checks that a list does not carry the index of a change that it does not show: whoever waits for a
// later one would miss it.
func TestIndexOfLists(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.errands.wait()
	for _, path := range []string{"/v1/jobs", "/v1/allocations", "/v1/evaluations"} {
		var after uint64
		p.store.mu.Lock()
		p.store.onRead = func() {
			p.gateway.mu.Lock()
			defer p.gateway.mu.Unlock()
			after = p.gateway.changed()
		}
		p.store.mu.Unlock()
		_, _, header := p.do("GET", path+"?namespace=*", "user", nil)
		shown, err := strconv.ParseUint(header.Get("X-Nomad-Index"), 10, 64)
		must.NoError(t, err)
		must.Less(t, after, shown, must.Sprint(path))
	}
}

// TestPageAfterRemoval pages through a list of which the next page's first item was removed meanwhile.
func TestPageAfterRemoval(t *testing.T) {
	item := func(id string) listed[string] { return listed[string]{show: id, id: id, token: id} }
	for _, one := range []struct{ query, want string }{
		{"next_token=b", "cd"}, {"next_token=c", "cd"}, {"next_token=e", ""}, {"next_token=b&reverse=true", "a"}, {"next_token=0&reverse=true", ""}, {"", "acd"},
	} {
		request := httptest.NewRequest("GET", "/v1/jobs?"+one.query, nil)
		out, err := page(httptest.NewRecorder(), &call{Request: request}, []listed[string]{item("a"), item("c"), item("d")})
		must.NoError(t, err)
		must.Eq(t, one.want, strings.Join(out, ""), must.Sprint(one.query))
	}
}

// TestSearch checks that a job is found though another namespace has one of its name.
func TestSearch(t *testing.T) {
	p := newPool(t, france())
	for _, namespace := range []string{"default", "other"} {
		job := testJob("web", "service", 1)
		job.Namespace = ptr(namespace)
		p.run(job)
	}
	for range 30 { // maps have no order
		_, text, _ := p.do("PUT", "/v1/search", "user", map[string]string{"Prefix": "we", "Context": "jobs"})
		must.StrContains(t, text, `"web"`)
		_, text, _ = p.do("PUT", "/v1/search", "user", map[string]string{"Prefix": "we", "Context": "jobs", "Namespace": "*"})
		must.StrContains(t, text, `["web","web"]`)
	}
}

// TestDiffsHoldNobodyUp checks that versions are compared after the lock is given back: for a job of some megabytes it
// takes seconds, in which no member would be heard.
func TestDiffsHoldNobodyUp(t *testing.T) {
	p := newPool(t, france())
	p.run(testJob("web", "service", 1))
	p.run(testJob("web", "service", 2))
	p.gateway.mu.Lock()
	out := p.gateway.showVersions(p.gateway.jobs[jobKey{"default", "web"}], &call{Request: httptest.NewRequest("GET", "/?diffs=true", nil)})
	p.gateway.mu.Unlock()
	_, later := out.(func() any)
	must.True(t, later)
	_, diffs, _, err := p.client.Jobs().Versions("web", true, nil)
	must.NoError(t, err)
	must.Len(t, 1, diffs)
	must.Eq(t, "Edited", diffs[0].Type)
}

// TestLeaderless checks what a follower does: it passes on to the leader, or says that there is none.
func TestLeaderless(t *testing.T) {
	p := newPool(t, france())
	config := Config{}
	s, err := config.settings()
	must.NoError(t, err)
	follower := newGateway(s, p.store, p.gateway.logger)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	front := follower.front(follower.routes(), transport)
	ask := func(header string) (int, string) {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, "GET", "/v1/regions", nil)
		must.NoError(t, err)
		if header != "" {
			request.Header.Set(header, "1")
		}
		recorder := httptest.NewRecorder()
		front.ServeHTTP(recorder, request)
		return recorder.Code, recorder.Body.String()
	}
	follower.leader.HTTPAddr = strings.TrimPrefix(p.server.URL, "http://")
	status, text := ask("")
	must.Eq(t, http.StatusOK, status)
	must.StrContains(t, text, "fr-par-1")
	status, text = ask(headerForwarded) // it was passed on once already
	must.Eq(t, http.StatusInternalServerError, status)
	must.StrContains(t, text, "No cluster leader")
	follower.leader.HTTPAddr = "127.0.0.1:1"
	status, text = ask("")
	must.Eq(t, http.StatusInternalServerError, status)
	must.StrContains(t, text, "cannot reach the leading gateway at 127.0.0.1:1")
}
