package member

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/relay"
	"pangaea/federation/state/statetest"
	"pangaea/federation/tunnel"
)

// workerEnv makes this test's own program a worker that echoes what it is sent on the port that Nomad gave it.
const workerEnv = "PANGAEA_TEST_WORKER"

func runWorker() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("NOMAD_PORT_rendezvous"))
	if err != nil {
		panic(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

// echoes sends a line, ends its own direction and wants the line back.
func echoes(t *testing.T, stream relay.Stream) {
	t.Helper()
	defer stream.Close()
	_, err := stream.Write([]byte("gradient"))
	must.NoError(t, err)
	must.NoError(t, stream.CloseWrite())
	text, err := io.ReadAll(stream)
	must.NoError(t, err)
	must.Eq(t, "gradient", string(text))
}

// testRelay reaches a real worker by the gateway's way and by the agent's own relay, and nothing else by either.
func (r *realRig) testRelay(t *testing.T) {
	program, err := os.Executable()
	must.NoError(t, err)
	job := shellJob("meet", 1, "")
	task(job).SetConfig("command", program).SetConfig("args", []string{})
	task(job).Env = map[string]string{workerEnv: "1"}
	task(job).Resources.MemoryMB = ptr(500) // enough for a program under the race detector
	job.TaskGroups[0].Meta = map[string]string{pool.MetaGang: "true"}
	job.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "rendezvous"}}}}
	status, text := r.gateway.call("PUT", pool.PathCommit, commit(job, 1, pool.GroupShare{Count: 1, Offset: 0, Total: 2}), nil)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	query := func(job, group, index, port string) url.Values {
		return url.Values{
			pool.DialNamespace: {"default"}, pool.DialJob: {job}, pool.DialGroup: {group}, pool.DialIndex: {index}, pool.DialPort: {port},
		}
	}
	var stream tunnel.Stream
	r.gateway.see("rank 0 answers", func(g *fakeGateway) bool {
		stream, err = g.session.OpenStream(t.Context(), pool.PathDial, query("meet", "web", "0", "rendezvous"))
		return err == nil
	})
	echoes(t, stream)
	for name, bad := range map[string]url.Values{
		"rank that another member holds": query("meet", "web", "1", "rendezvous"), "no such port": query("meet", "web", "0", "ssh"),
		"negative rank": query("meet", "web", "-1", "rendezvous"), "no rank": query("meet", "web", "x", "rendezvous"),
		"owner's job": query("secret", "web", "0", "rendezvous"), "no such group": query("meet", "db", "0", "rendezvous"),
	} {
		_, err = r.gateway.session.OpenStream(t.Context(), pool.PathDial, bad)
		must.Error(t, err, must.Sprint(name))
	}
	registered, err := r.client.Job(t.Context(), "pool-default", "meet")
	must.NoError(t, err)
	label, err := readTag(registered)
	must.NoError(t, err)
	worker, err := net.Dial("tcp", statetest.Loopback()+":"+strconv.Itoa(label.Relays["web"]))
	must.NoError(t, err)
	echoes(t, worker.(*net.TCPConn))
	status, _ = r.gateway.call("PUT", pool.PathStop, pool.StopRequest{PlacementRef: ref("meet", 1), Purge: true}, nil)
	must.Eq(t, http.StatusOK, status)
	_, err = net.Dial("tcp", statetest.Loopback()+":"+strconv.Itoa(label.Relays["web"]))
	must.Error(t, err, must.Sprint("the port is closed with its job"))
}

// TestRelayThroughGateway checks the way of a worker whose rank 0 is another member's.
func TestRelayThroughGateway(t *testing.T) {
	b := newBench(t)
	job := shellJob("train", 1, "true")
	job.TaskGroups[0].Meta = map[string]string{pool.MetaGang: "true"}
	job.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "rendezvous"}}}}
	_, err := b.placements.Commit(t.Context(), commit(job, 1, pool.GroupShare{Count: 1, Offset: 3, Total: 4}))
	must.NoError(t, err)
	s := b.refresh()
	port := s.jobs[jobKey{"pool-default", "train"}].tag.Relays["web"]
	asked := make(chan url.Values, 1)
	g := connect(t, b.Agent, func(g *fakeGateway) {
		g.streams = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			stream, err := tunnel.AcceptStream(w, r)
			if err != nil {
				return
			}
			asked <- r.URL.Query()
			_, _ = io.Copy(stream, stream)
			_ = stream.Close()
		})
	})
	g.see("the agent joins", func(g *fakeGateway) bool { return len(g.sync.Placements) == 1 })
	worker, err := net.Dial("tcp", statetest.Loopback()+":"+strconv.Itoa(port))
	must.NoError(t, err)
	echoes(t, worker.(*net.TCPConn))
	must.Eq(t, url.Values{"namespace": {"default"}, "job": {"train"}, "group": {"web"}, "index": {"0"}, "port": {"rendezvous"}}, <-asked)
	// A restarted agent opens the same port; the old one's is closed first.
	b.relay.Close()
	again := newBench(t)
	again.placements.reopen(s)
	must.Len(t, 1, again.relay.Keys())
	second, err := net.Dial("tcp", statetest.Loopback()+":"+strconv.Itoa(port))
	must.NoError(t, err)
	must.NoError(t, second.Close())
	s.jobs[jobKey{"pool-default", "train"}].stopped = true
	again.placements.reopen(s)
	must.Len(t, 0, again.relay.Keys())
}
