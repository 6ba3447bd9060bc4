package member

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state/statetest"
)

// testPassthrough checks what the pool may see and do, and that the owner's own objects do not exist for it.
func (r *realRig) testPassthrough(t *testing.T) {
	var mine string
	for id := range r.ids("web") {
		mine = id
	}
	theirs, node := r.owner.ID, r.owner.NodeID
	logs := "?task=main&type=stdout&origin=start&offset=0&plain=true"
	for _, test := range []struct {
		name, method, path string
		status             int
		has, lacks         string
	}{
		{"allocations", "GET", "/v1/allocations", 200, mine, theirs},
		{"allocations of all namespaces", "GET", "/v1/allocations?namespace=*", 200, mine, theirs},
		{"allocations by prefix", "GET", "/v1/allocations?prefix=" + mine[:8], 200, mine, "pool-default"},
		{"allocations of a namespace given twice", "GET", "/v1/allocations?namespace=default&namespace=secret", 200, mine, theirs},
		{"allocation", "GET", "/v1/allocation/" + mine, 200, `"Namespace":"default"`, `"Namespace":"pool-default"`},
		{"owner's allocation", "GET", "/v1/allocation/" + theirs, 404, "not found", "secret"},
		{"allocation that is not there", "GET", "/v1/allocation/11111111-2222-3333-4444-555555555555", 404, "", ""},
		{"half an ID", "GET", "/v1/allocation/" + theirs[:8], 404, "", ""},
		{"job", "GET", "/v1/job/web", 200, `"ID":"web"`, "pool-default"},
		{"job's allocations", "GET", "/v1/job/web/allocations", 200, mine, theirs},
		{"owner's job", "GET", "/v1/job/secret", 404, "", "sleep"},
		{"owner's job in its own namespace", "GET", "/v1/job/secret?namespace=default", 404, "", "sleep"},
		{"a job in all namespaces", "GET", "/v1/job/secret?namespace=*", 404, "", "sleep"},
		{"a command in a job", "GET", "/v1/job/web/action?action=x", 404, "", ""},
		{"nodes", "GET", "/v1/nodes", 200, node, "127.0.0.1"},
		{"node", "GET", "/v1/node/" + node, 200, `"HTTPAddr":""`, "127.0.0.1"},
		{"node's allocations", "GET", "/v1/node/" + node + "/allocations", 200, mine, theirs},
		{"node's statistics", "GET", "/v1/client/stats?node_id=" + node, 200, "Memory", ""},
		{"a server's own statistics", "GET", "/v1/client/stats", 404, "", "Memory"},
		{"logs", "GET", "/v1/client/fs/logs/" + mine + logs, 200, "hello", ""},
		{"owner's logs", "GET", "/v1/client/fs/logs/" + theirs + logs, 404, "", ""},
		{"owner's files", "GET", "/v1/client/fs/ls/" + theirs + "?path=/", 404, "", ""},
		{"files by a path that is not clean", "GET", "/v1/client/fs/ls/" + mine + "/../" + theirs + "?path=/", 404, "", ""},
		{"statistics", "GET", "/v1/client/allocation/" + mine + "/stats", 200, "Tasks", ""},
		{"owner's exec", "GET", "/v1/client/allocation/" + theirs + "/exec?task=main", 404, "", ""},
		{"stop owner's", "PUT", "/v1/allocation/" + theirs + "/stop", 404, "", ""},
		{"restart owner's", "PUT", "/v1/client/allocation/" + theirs + "/restart", 404, "", ""},
		{"register a job", "PUT", "/v1/jobs", 405, "", ""},
		{"stop a job", "DELETE", "/v1/job/web", 405, "", ""},
		{"variables", "GET", "/v1/vars", 404, "", ""},
		{"tokens", "GET", "/v1/acl/tokens", 404, "", ""},
		{"agent", "GET", "/v1/agent/self", 404, "", ""},
		{"drain a node", "PUT", "/v1/node/" + node + "/drain", 404, "", ""},
		{"system", "PUT", "/v1/system/gc", 404, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, text := r.gateway.call(test.method, test.path, nil, nil)
			must.Eq(t, test.status, status, must.Sprintf("%.300s", text))
			must.StrContains(t, text, test.has)
			if test.lacks != "" {
				must.StrNotContains(t, text, test.lacks)
			}
		})
	}
	t.Run("filters cannot widen", func(t *testing.T) {
		_, text := r.gateway.call("GET", "/v1/allocations?namespace=*&filter="+url.QueryEscape(`JobID == "secret"`), nil, nil)
		must.Eq(t, "[]", strings.TrimSpace(text))
	})
	t.Run("exec", func(t *testing.T) { r.testExec(t, mine, theirs) })
	t.Run("follow", func(t *testing.T) { r.testFollow(t, mine) })
	t.Run("restart", func(t *testing.T) {
		status, text := r.gateway.call("PUT", "/v1/client/allocation/"+mine+"/restart", map[string]string{"TaskName": "main"}, nil)
		must.Eq(t, http.StatusOK, status, must.Sprint(text))
	})
	t.Run("stop one", func(t *testing.T) {
		status, text := r.gateway.call("PUT", "/v1/allocation/"+mine+"/stop", nil, nil)
		must.Eq(t, http.StatusOK, status, must.Sprint(text))
		r.gateway.see("it is complete", func(g *fakeGateway) bool { return g.allocs[mine].ClientStatus == "complete" })
	})
}

// testRefusals checks that each rule of the owner's is kept, and that what cannot run is refused with Nomad's reasons.
func (r *realRig) testRefusals(t *testing.T) {
	reserve := func(job *api.Job, namespace string) pool.ReserveReply {
		var reply pool.ReserveReply
		request := pool.ReserveRequest{
			PlacementRef: pool.PlacementRef{Namespace: namespace, JobID: *job.ID, PlacementID: "p", Epoch: 1},
			Job:          job, Groups: map[string]pool.GroupShare{"web": {Count: *job.TaskGroups[0].Count, Total: 1}}, TTL: time.Minute,
		}
		status, text := r.gateway.call("PUT", pool.PathReserve, request, &reply)
		must.Eq(t, http.StatusOK, status, must.Sprint(text))
		must.False(t, reply.Granted)
		return reply
	}
	big := shellJob("big", 1, "true")
	big.TaskGroups[0].Tasks[0].Resources.MemoryMB = ptr(1 << 24)
	must.MapContainsKey(t, reserve(big, "default").Failed, "web")
	elsewhere := shellJob("elsewhere", 1, "true")
	elsewhere.Constraints = []*api.Constraint{api.NewConstraint("${meta.pool.country}", "=", "JP")}
	must.MapContainsKey(t, reserve(elsewhere, "default").Failed, "web")
	docker := shellJob("docker", 1, "true")
	docker.TaskGroups[0].Tasks[0].Driver = "docker"
	must.StrContains(t, reserve(docker, "default").Reason, `driver "docker"`)
	must.StrContains(t, reserve(shellJob("x", 1, "true"), "../x").Reason, "namespace")
	must.StrContains(t, reserve(shellJob("x", 1, "true"), "team-b").Reason, "nomad namespace apply pool-team-b")
}

// testGang checks the environment that Nomad renders for a worker.
func (r *realRig) testGang(t *testing.T) {
	job := shellJob("gang", 2, `echo "$RANK/$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"; exec sleep 600`)
	job.Type = ptr("batch")
	job.TaskGroups[0].Meta = map[string]string{pool.MetaGang: "true"}
	job.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "other"}, {Label: "rendezvous"}}}}
	status, text := r.gateway.call("PUT", pool.PathCommit, commit(job, 1, pool.GroupShare{Count: 1, Offset: 4, Total: 6}), nil)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	r.gateway.see("a worker", func(g *fakeGateway) bool { return r.running(g, "gang") == 1 })
	var id string
	for id = range r.ids("gang") {
	}
	logs := "/v1/client/fs/logs/" + id + "?task=main&type=stdout&origin=start&offset=0&plain=true"
	r.gateway.see("its environment", func(*fakeGateway) bool {
		_, text = r.gateway.call("GET", logs, nil, nil)
		return strings.HasPrefix(text, "4/6 "+statetest.Loopback()+":14")
	})
	registered, err := r.client.Job(t.Context(), "pool-default", "gang")
	must.NoError(t, err)
	label, err := readTag(registered)
	must.NoError(t, err)
	must.StrContains(t, text, ":"+strings.TrimSpace(itoa(label.Relays["web"])))
}

// testSync checks that a second agent finds what the first placed, stops what the pool no longer wants before it
// obeys, and reopens relays.
func (r *realRig) testSync(t *testing.T) {
	again := startAgent(t, testConfig(), r.client)
	g := connect(t, again, func(g *fakeGateway) { g.stop = []pool.PlacementRef{ref("web", 9)} })
	g.see("its placements", func(g *fakeGateway) bool { return len(g.sync.Placements) == 2 })
	g.see("the superseded one stops", func(g *fakeGateway) bool { return r.running(g, "web") == 0 && r.running(g, "gang") == 1 })
	status, text := g.call("PUT", pool.PathStop, pool.StopRequest{PlacementRef: ref("gang", 0), Purge: true}, nil)
	must.Eq(t, http.StatusConflict, status, must.Sprint(text))
	var reply pool.CommitReply
	status, text = g.call("PUT", pool.PathStop, pool.StopRequest{PlacementRef: ref("gang", 1), Purge: true}, &reply)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.NotEq(t, "", reply.EvalID)
	g.see("nothing runs", func(g *fakeGateway) bool { return r.running(g, "gang") == 0 })
	status, _ = g.call("PUT", pool.PathCommit, commit(shellJob("gang", 1, "true"), 1, pool.GroupShare{Count: 1, Total: 1}), nil)
	must.Eq(t, http.StatusConflict, status, must.Sprint("a commit that is late must not undo a stop"))
	owners := r.cluster.Client(r.cluster.Token)
	mine, _, err := owners.Jobs().Info("secret", nil)
	must.NoError(t, err)
	must.Eq(t, "running", *mine.Status, must.Sprint("the owner's job is not touched"))
}

// testExec runs a command over a websocket through the tunnel, as "nomad alloc exec" does, and not in the owner's task.
func (r *realRig) testExec(t *testing.T, mine, theirs string) {
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) {
		return r.gateway.session.OpenConn()
	}}
	path := "/exec?task=main&tty=false&command=" + url.QueryEscape(`["/bin/sh","-c","echo run; exit 7"]`)
	_, response, err := dialer.DialContext(t.Context(), "ws://member/v1/client/allocation/"+theirs+path, nil)
	must.ErrorIs(t, err, websocket.ErrBadHandshake)
	must.Eq(t, http.StatusNotFound, response.StatusCode)
	conn, _, err := dialer.DialContext(t.Context(), "ws://member/v1/client/allocation/"+mine+path, nil)
	must.NoError(t, err)
	defer conn.Close()
	must.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(`{"stdin":{"close":true}}`)))
	var frames strings.Builder
	for !strings.Contains(frames.String(), "exited") {
		_, frame, err := conn.ReadMessage()
		must.NoError(t, err, must.Sprint(frames.String()))
		frames.Write(frame)
	}
	must.StrContains(t, frames.String(), `"cnVuCg=="`) // run
	must.StrContains(t, frames.String(), `"exit_code":7`)
}

// testFollow checks that a log that is followed arrives while the request is still open.
func (r *realRig) testFollow(t *testing.T, mine string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	path := "http://member/v1/client/fs/logs/" + mine + "?task=main&type=stdout&follow=true&origin=start&offset=0&plain=true"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	must.NoError(t, err)
	response, err := (&http.Client{Transport: r.gateway.session.Transport()}).Do(request)
	must.NoError(t, err)
	defer response.Body.Close()
	text := make([]byte, 5)
	_, err = io.ReadFull(response.Body, text)
	must.NoError(t, err)
	must.Eq(t, "hello", string(text))
}

// TestFollowerIsNoContact checks that a gateway that does not lead keeps its session but does not keep work alive.
func TestFollowerIsNoContact(t *testing.T) {
	b := newBench(t)
	b.cluster.nodes = []*api.Node{gpuNode("a", 1)}
	b.refresh()
	g := connect(t, b.Agent, func(g *fakeGateway) { g.follow = true })
	g.see("the agent was refused", func(g *fakeGateway) bool { return g.refused > 0 })
	_, ever := b.contact.lost()
	must.False(t, ever)
	status, _ := g.call("PUT", pool.PathStop, pool.StopRequest{PlacementRef: ref("x", 1)}, nil)
	must.Eq(t, http.StatusServiceUnavailable, status)
	g.mu.Lock()
	g.follow = false
	g.mu.Unlock()
	g.see("it joins once the gateway leads", func(g *fakeGateway) bool { return g.offer.Member == "fr-par-1" })
	_, ever = b.contact.lost()
	must.True(t, ever)
}
