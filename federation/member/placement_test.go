package member

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/nomad"
	"pangaea/federation/pool"
)

// fakeAnswer returns the error that Nomad's own client makes of an HTTP status.
func fakeAnswer(status int) error {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "answer", status)
	}))
	defer server.Close()
	client, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		return err
	}
	defer client.Close()
	_, _, err = client.Jobs().Info("x", nil)
	return err
}

// TestCommitOrder checks every order in which commands for one job may arrive: what a higher epoch decided stays.
func TestCommitOrder(t *testing.T) {
	type step struct {
		verb  string
		epoch uint64
		want  error
	}
	for _, test := range []struct {
		name  string
		steps []step
		runs  bool
		epoch uint64
		count int // registrations
	}{
		{"once", []step{{"commit", 1, nil}}, true, 1, 1},
		{"repeated", []step{{"commit", 1, nil}, {"commit", 1, nil}, {"commit", 1, nil}}, true, 1, 1},
		{"higher", []step{{"commit", 1, nil}, {"commit", 2, nil}}, true, 2, 2},
		{"late", []step{{"commit", 2, nil}, {"commit", 1, errStale}}, true, 2, 1},
		{"stop", []step{{"commit", 1, nil}, {"stop", 1, nil}}, false, 1, 1},
		{"late stop", []step{{"commit", 2, nil}, {"stop", 1, errStale}}, true, 2, 1},
		{"commit after its stop", []step{{"stop", 1, nil}, {"commit", 1, errStale}}, false, 0, 0},
		{"commit after a later stop", []step{{"stop", 5, nil}, {"commit", 4, errStale}, {"commit", 6, nil}}, true, 6, 1},
		{"stopped twice", []step{{"commit", 1, nil}, {"stop", 1, nil}, {"stop", 1, nil}}, false, 1, 1},
		{"again after a stop", []step{{"commit", 1, nil}, {"stop", 1, nil}, {"commit", 2, nil}}, true, 2, 2},
		{"purged", []step{{"commit", 1, nil}, {"purge", 1, nil}, {"commit", 1, errStale}}, false, 0, 1},
		{"run anew after a purge", []step{{"commit", 3, nil}, {"purge", 3, nil}, {"new", 1, nil}}, true, 1, 2},
		{"run anew after a stop", []step{{"commit", 3, nil}, {"stop", 3, nil}, {"new", 3, errStale}}, false, 3, 1},
		{"stopped by the guard", []step{{"commit", 1, nil}, {"guard", 1, nil}, {"commit", 1, nil}}, true, 1, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			key := jobKey{"pool-default", "x"}
			for _, step := range test.steps {
				var err error
				switch step.verb {
				case "commit":
					_, err = b.placements.Commit(t.Context(), commit(shellJob("x", 1, "true"), step.epoch, pool.GroupShare{Count: 1}))
				case "new":
					request := commit(shellJob("x", 1, "true"), step.epoch, pool.GroupShare{Count: 1})
					request.PlacementID = "p-other"
					_, err = b.placements.Commit(t.Context(), request)
				case "guard":
					_, err = b.cluster.Deregister(t.Context(), key.namespace, key.id, false)
				default:
					_, err = b.placements.Stop(t.Context(), pool.StopRequest{PlacementRef: ref("x", step.epoch), Purge: step.verb == "purge"})
				}
				must.ErrorIs(t, err, step.want)
			}
			job := b.cluster.jobs[key]
			must.Eq(t, test.runs, job != nil && !deref(job.Stop, false))
			must.Eq(t, test.count, b.cluster.registered)
			if test.epoch > 0 {
				label, err := readTag(job)
				must.NoError(t, err)
				must.Eq(t, test.epoch, label.Epoch)
			}
		})
	}
}

func TestCommitReply(t *testing.T) {
	b := newBench(t)
	first, err := b.placements.Commit(t.Context(), commit(shellJob("x", 1, "true"), 1, pool.GroupShare{Count: 1}))
	must.NoError(t, err)
	again, err := b.placements.Commit(t.Context(), commit(shellJob("x", 1, "true"), 1, pool.GroupShare{Count: 1}))
	must.NoError(t, err)
	must.Eq(t, first, again)
	must.Eq(t, "eval-11", again.EvalID)
}

// TestRelayOfAFailedCommit checks that a gang whose registration failed keeps no port once the pool has given it up.
func TestRelayOfAFailedCommit(t *testing.T) {
	b := newBench(t)
	job := shellJob("x", 1, "true")
	job.TaskGroups[0].Meta = map[string]string{pool.MetaGang: "true"}
	job.TaskGroups[0].Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: rendezvousLabel}}}}
	b.cluster.refuse = nomad.ErrUnavailable
	_, err := b.placements.Commit(t.Context(), commit(job, 1, pool.GroupShare{Count: 1}))
	must.ErrorIs(t, err, nomad.ErrUnavailable)
	must.Len(t, 1, b.relay.Keys(), must.Sprint("the commit is tried again"))
	_, err = b.placements.Stop(t.Context(), pool.StopRequest{PlacementRef: ref("x", 2)})
	must.NoError(t, err)
	must.Len(t, 0, b.relay.Keys())
}

// TestForeignJob checks that a job that the owner put into a pool namespace by hand is not touched.
func TestForeignJob(t *testing.T) {
	b := newBench(t)
	mine := shellJob("x", 1, "true")
	mine.Namespace, mine.JobModifyIndex = ptr("pool-default"), ptr(uint64(7))
	b.cluster.jobs[jobKey{"pool-default", "x"}] = mine
	_, err := b.placements.Commit(t.Context(), commit(shellJob("x", 1, "true"), 1, pool.GroupShare{Count: 1}))
	must.ErrorIs(t, err, errPolicy)
	_, err = b.placements.Stop(t.Context(), pool.StopRequest{PlacementRef: ref("x", 1)})
	must.ErrorIs(t, err, errPolicy)
	must.Len(t, 0, b.refresh().refs())
	must.Len(t, 0, b.cluster.stopped)
}

func TestStatusCodes(t *testing.T) {
	for want, err := range map[int]error{
		http.StatusConflict: errStale, http.StatusUnprocessableEntity: errPolicy,
		http.StatusServiceUnavailable: nomad.ErrUnavailable, http.StatusBadGateway: errors.New("else"),
	} {
		must.Eq(t, want, statusFor(err))
	}
	must.True(t, nomad.NotFound(missing()))
}

// TestReserve checks that room is held once, given back, and never promised twice.
func TestReserve(t *testing.T) {
	b := newBench(t)
	b.cluster.nodes = []*api.Node{gpuNode("a", 2), gpuNode("b", 1)}
	b.refresh()
	reserve := func(id string, count int) pool.ReserveReply {
		reply, err := b.placements.Reserve(t.Context(), pool.ReserveRequest{
			PlacementRef: ref(id, 1), Job: gpuJob(id, count), Groups: share(count, 0, count), TTL: 10 * time.Second,
		})
		must.NoError(t, err)
		return reply
	}
	must.True(t, reserve("x", 2).Granted)
	must.True(t, reserve("x", 2).Granted, must.Sprint("the same again replaces itself"))
	must.False(t, reserve("y", 2).Granted)
	must.True(t, reserve("y", 1).Granted)
	must.StrContains(t, reserve("z", 1).Reason, "held for another placement")
	b.placements.Release(ref("y", 1))
	must.True(t, reserve("z", 1).Granted)
	b.wall = b.wall.Add(11 * time.Second)
	must.True(t, reserve("w", 3).Granted, must.Sprint("what was held is free after its time"))

	b.cluster.failed = map[string]*api.AllocationMetric{"web": {NodesFiltered: 2}}
	must.Eq(t, b.cluster.failed, reserve("v", 1).Failed)
	b.watcher.publish(nil, true)
	must.StrContains(t, reserve("v", 1).Reason, "does not answer")
}

// TestReservedThenRunning checks that a placement's room is not taken off twice when its allocations appear.
func TestReservedThenRunning(t *testing.T) {
	b := newBench(t)
	b.cluster.nodes = []*api.Node{gpuNode("a", 4)}
	b.refresh()
	free := func() int {
		s := b.refresh()
		list := rooms(s)
		b.book.apply(s, list)
		return list[0].devices["nvidia/gpu/A100"]
	}
	reply, err := b.placements.Reserve(t.Context(), pool.ReserveRequest{PlacementRef: ref("x", 1), Job: gpuJob("x", 2), Groups: share(2, 0, 2)})
	must.NoError(t, err)
	must.True(t, reply.Granted, must.Sprint(reply.Reason))
	must.Eq(t, 2, free())
	_, err = b.placements.Commit(t.Context(), commit(gpuJob("x", 2), 1, pool.GroupShare{Count: 2, Total: 2}))
	must.NoError(t, err)
	must.Eq(t, 2, free())
	for i, id := range []string{"GPU-a-0", "GPU-a-3"} {
		b.cluster.allocations = append(b.cluster.allocations, &api.AllocationListStub{
			ID: id, NodeID: "a", Namespace: "pool-default", JobID: "x", TaskGroup: "web", ClientStatus: "running",
			AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
				"main": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "A100", DeviceIDs: []string{id}}}},
			}},
		})
		must.Eq(t, 2, free(), must.Sprint(i))
	}
	b.wall = b.wall.Add(time.Hour)
	must.Eq(t, 2, free())
	b.cluster.allocations[0].ClientStatus = "complete"
	must.Eq(t, 3, free())
	b.cluster.nodes[0].NodeResources.Devices[0].Instances[0].Healthy = false
	b.cluster.nodes[0].ModifyIndex++
	must.Eq(t, 2, free(), must.Sprint("a sick GPU is not offered"))
}
