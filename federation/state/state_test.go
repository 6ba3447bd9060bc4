package state_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state"
	"pangaea/federation/state/statetest"
)

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// rig is a Consul with a gateway's store and two users, who may work in namespace default and in team-b.
type rig struct {
	consul       *statetest.Consul
	store        *state.Store
	alice, bob   string
	gatewayToken string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	consul := statetest.Start(t)
	user := func(name string, namespaces ...string) string {
		rules, err := state.PolicyUser(namespaces...)
		must.NoError(t, err)
		return consul.TokenFor(name, rules)
	}
	r := &rig{
		consul: consul, alice: user("alice", "default"), bob: user("bob", "team-b"),
		gatewayToken: consul.TokenFor("gateway", state.PolicyGateway()),
	}
	r.store = r.open(t)
	return r
}

func (r *rig) open(t *testing.T) *state.Store {
	t.Helper()
	store, err := state.Open(state.Config{
		Address: r.consul.Address, Token: r.gatewayToken, SessionTTL: time.Minute, LockDelay: time.Millisecond,
		AccessCache: time.Millisecond,
	})
	must.NoError(t, err)
	return store
}

func job(namespace, id string) *pool.JobRecord {
	return &pool.JobRecord{Job: &api.Job{ID: &id, Namespace: &namespace}}
}

func TestRealState(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]func(*testing.T, *rig){
		"jobs": testJobs, "access": testAccess, "large": testLarge, "fence": testFence, "identity": testIdentity,
		"watch": testWatch, "register": testRegister, "names": testNames, "members": testMembers,
		"restart": testRestart,
	} {
		t.Run(name, func(t *testing.T) { test(t, r) })
	}
	t.Run("away", func(t *testing.T) { testAway(t, r) }) // last: it stops Consul
}

func testJobs(t *testing.T, r *rig) {
	ctx := t.Context()
	first, err := r.store.PutJob(ctx, r.alice, job("default", "a/b"), 0)
	must.NoError(t, err)
	must.Positive(t, first)
	_, err = r.store.PutJob(ctx, r.alice, job("default", "a/b"), 0)
	must.ErrorIs(t, err, state.ErrConflict)
	changed := job("default", "a/b")
	changed.Stopped = true
	second, err := r.store.PutJob(ctx, r.alice, changed, first)
	must.NoError(t, err)
	must.Greater(t, first, second)
	read, err := r.store.GetJob(ctx, "default", "a/b")
	must.NoError(t, err)
	must.Eq(t, second, read.Index)
	must.Eq(t, "a/b", *read.Value.Job.ID)
	_, err = r.store.PutJob(ctx, r.bob, job("team-b", "other"), state.AnyIndex)
	must.NoError(t, err)
	all, err := r.store.ListJobs(ctx, "*")
	must.NoError(t, err)
	must.Len(t, 2, all)
	some, err := r.store.ListJobs(ctx, "team-b")
	must.NoError(t, err)
	must.Len(t, 1, some)
	must.ErrorIs(t, r.store.DeleteJob(ctx, r.alice, "default", "a/b", first), state.ErrConflict)
	must.NoError(t, r.store.DeleteJob(ctx, r.alice, "default", "a/b", second))
	must.NoError(t, r.store.DeleteJob(ctx, r.bob, "team-b", "other", state.AnyIndex))
	_, err = r.store.GetJob(ctx, "default", "a/b")
	must.ErrorIs(t, err, state.ErrNotFound)
}

// testAccess checks that Consul decides, for the token that was given and no other.
func testAccess(t *testing.T, r *rig) {
	ctx := t.Context()
	for _, test := range []struct {
		name, token, namespace string
		allowed                bool
	}{
		{"own namespace", r.alice, "default", true},
		{"another's namespace", r.alice, "team-b", false},
		{"namespace with a longer name", r.alice, "default-2", false},
		{"no token is not the gateway's token", "", "default", false},
		{"made-up token", "00000000-aaaa-bbbb-cccc-000000000000", "default", false},
		{"gateway's token may not write jobs", r.gatewayToken, "default", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.store.PutJob(ctx, test.token, job(test.namespace, "access"), state.AnyIndex)
			can := r.store.CanWrite(ctx, test.token, test.namespace)
			if test.allowed {
				must.NoError(t, err)
				must.NoError(t, can)
				must.NoError(t, r.store.CanRead(ctx, test.token, test.namespace))
				must.NoError(t, r.store.DeleteJob(ctx, test.token, test.namespace, "access", state.AnyIndex))
				return
			}
			must.ErrorIs(t, err, state.ErrPermission)
			must.ErrorIs(t, can, state.ErrPermission)
			must.ErrorIs(t, r.store.DeleteJob(ctx, test.token, test.namespace, "access", state.AnyIndex), state.ErrPermission)
			if test.token != r.gatewayToken {
				must.ErrorIs(t, r.store.CanRead(ctx, test.token, test.namespace), state.ErrPermission)
			}
		})
	}
}

func testLarge(t *testing.T, r *rig) {
	record := job("default", "large")
	noise := make([]byte, 600<<10)
	_, err := rand.Read(noise)
	must.NoError(t, err)
	record.Job.Meta = map[string]string{"noise": base64.StdEncoding.EncodeToString(noise)}
	_, err = r.store.PutJob(t.Context(), r.alice, record, state.AnyIndex)
	must.ErrorIs(t, err, state.ErrTooLarge)
	must.StrContains(t, err.Error(), `job "large" is too large: 800 KiB of JSON`)
	must.StrContains(t, err.Error(), "into the image of the tasks")

	record.Job.Meta = map[string]string{"text": strings.Repeat("compresses well ", 100_000)}
	_, err = r.store.PutJob(t.Context(), r.alice, record, state.AnyIndex)
	must.NoError(t, err)
	read, err := r.store.GetJob(t.Context(), "default", "large")
	must.NoError(t, err)
	must.Eq(t, record.Job.Meta, read.Value.Job.Meta)

	record.Job.Meta = map[string]string{"noise": base64.StdEncoding.EncodeToString(noise[:370<<10])}
	_, err = r.store.PutJob(t.Context(), r.alice, record, state.AnyIndex)
	must.NoError(t, err, must.Sprint("the largest value that is allowed must fit a transaction"))
	must.NoError(t, r.store.DeleteJob(t.Context(), r.alice, "default", "large", state.AnyIndex))
}

// testFence checks that a deposed leader's writes fail whole, and that its successor takes over.
func testFence(t *testing.T, r *rig) {
	ctx := t.Context()
	_, err := r.store.Leader(ctx)
	must.ErrorIs(t, err, state.ErrNotFound)
	first, err := r.store.Campaign(ctx, state.GatewayRecord{ID: "one", HTTPAddr: "127.0.0.1:1"})
	must.NoError(t, err)
	leader, err := r.store.Leader(ctx)
	must.NoError(t, err)
	must.Eq(t, "one", leader.ID)

	write := func(fence state.Fence, cas uint64) (uint64, error) {
		indexes, err := r.store.PutPlacements(ctx, fence,
			state.PlacementWrite{Set: pool.PlacementSet{Namespace: "default", JobID: "x", Epoch: 1}, CAS: cas},
			state.PlacementWrite{Set: pool.PlacementSet{Namespace: "default", JobID: "y", Epoch: 1}, CAS: state.AnyIndex})
		if err != nil {
			return 0, err
		}
		must.Len(t, 2, indexes)
		return indexes[0], nil
	}
	index, err := write(first.Fence, 0)
	must.NoError(t, err)
	_, err = write(first.Fence, 0)
	must.ErrorIs(t, err, state.ErrConflict)
	_, err = write(state.Fence{Key: pool.KeyLeader, Session: "11111111-2222-3333-4444-555555555555"}, index)
	must.ErrorIs(t, err, state.ErrFenced)

	won := make(chan *state.Leadership, 1)
	go func() {
		second, err := r.open(t).Campaign(ctx, state.GatewayRecord{ID: "two"})
		if err == nil {
			won <- second
		}
	}()
	select {
	case <-won:
		t.Fatal("two gateways lead at once")
	case <-time.After(300 * time.Millisecond):
	}
	// The leader's session is destroyed behind its back, as when its renewals do not arrive.
	_, err = r.consul.Client(r.consul.Token).Session().Destroy(first.Fence.Session, nil)
	must.NoError(t, err)
	var second *state.Leadership
	select {
	case second = <-won:
	case <-time.After(soon):
		t.Fatal("nobody took over")
	}
	<-first.Lost()
	_, err = write(first.Fence, index)
	must.ErrorIs(t, err, state.ErrFenced)
	index, err = write(second.Fence, index)
	must.NoError(t, err)
	first.Resign()

	sets, err := r.store.ListPlacements(ctx)
	must.NoError(t, err)
	must.Len(t, 2, sets)
	set, err := r.store.GetPlacements(ctx, "default", "x")
	must.NoError(t, err)
	must.Eq(t, index, set.Index)
	for _, id := range []string{"x", "y"} {
		gone := state.PlacementWrite{Set: pool.PlacementSet{Namespace: "default", JobID: id}, CAS: state.AnyIndex, Delete: true}
		_, err = r.store.PutPlacements(ctx, second.Fence, gone)
		must.NoError(t, err)
	}
	started := time.Now()
	second.Resign()
	second.Resign()
	third, err := r.store.Campaign(ctx, state.GatewayRecord{ID: "three"})
	must.NoError(t, err)
	must.Less(t, time.Minute, time.Since(started), must.Sprint("a resigned leader must not hold the next one up, as a dead one does for twice as long"))
	third.Resign()
	_, err = r.store.GetPlacements(ctx, "default", "x")
	must.ErrorIs(t, err, state.ErrNotFound)
}

// testRestart checks that a gateway that was killed and started again leads at once, and that nobody else does so.
func testRestart(t *testing.T, r *rig) {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	// The session of a run that was killed: nobody renews it and nobody resigns.
	sessions := r.consul.Client(r.gatewayToken).Session()
	dead, _, err := sessions.CreateNoChecks(&consul.SessionEntry{TTL: "1h", LockDelay: time.Minute}, nil)
	must.NoError(t, err)
	record := state.GatewayRecord{ID: "run-1", HTTPAddr: "127.0.0.1:4646", TunnelAddr: "127.0.0.1:4649"}
	value, err := json.Marshal(record)
	must.NoError(t, err)
	held, _, err := r.consul.Client(r.gatewayToken).KV().Acquire(&consul.KVPair{Key: pool.KeyLeader, Value: value, Session: dead, Flags: consul.LockFlagValue}, nil)
	must.NoError(t, err)
	must.True(t, held)

	other := state.GatewayRecord{ID: "run-2", HTTPAddr: "127.0.0.2:4646", TunnelAddr: "127.0.0.1:4649"}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	_, err = r.open(t).Campaign(short, other)
	must.ErrorIs(t, err, context.DeadlineExceeded)

	record.ID = "run-3"
	started := time.Now()
	leadership, err := r.open(t).Campaign(ctx, record)
	must.NoError(t, err)
	must.Less(t, time.Minute, time.Since(started), must.Sprint("that is the lock's delay alone"))
	_, err = r.store.PutPlacements(ctx, state.Fence{Key: pool.KeyLeader, Session: dead},
		state.PlacementWrite{Set: pool.PlacementSet{Namespace: "default", JobID: "z"}, CAS: state.AnyIndex})
	must.ErrorIs(t, err, state.ErrFenced)
	leadership.Resign()
}

func testWatch(t *testing.T, r *rig) {
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan int, 10)
	done := make(chan error, 1)
	go func() { done <- r.store.WatchJobs(ctx, func(jobs []state.Job) { seen <- len(jobs) }) }()
	must.Eq(t, 0, <-seen)
	_, err := r.store.PutJob(ctx, r.alice, job("default", "watched"), 0)
	must.NoError(t, err)
	must.Eq(t, 1, <-seen)
	must.NoError(t, r.store.DeleteJob(ctx, r.alice, "default", "watched", state.AnyIndex))
	must.Eq(t, 0, <-seen)
	cancel()
	must.ErrorIs(t, <-done, context.Canceled)
}

func testRegister(t *testing.T, r *rig) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	record := state.GatewayRecord{ID: "g1", HTTPAddr: "127.0.0.1:4646", TunnelAddr: "127.0.0.1:4649", Version: "1"}
	go func() { done <- r.store.Register(ctx, record) }()
	must.Wait(t, waitFor(func() bool {
		gateways, err := r.store.Gateways(ctx)
		return err == nil && len(gateways) == 1 && gateways[0] == record
	}))
	cancel()
	must.ErrorIs(t, <-done, context.Canceled)
	gateways, err := r.store.Gateways(t.Context())
	must.NoError(t, err)
	must.Len(t, 0, gateways)
	must.Error(t, r.store.Register(t.Context(), state.GatewayRecord{HTTPAddr: "nowhere"}))
}

func testMembers(t *testing.T, r *rig) {
	record := pool.MemberRecord{Alias: "fr-par-1", Price: 2, AgentInfo: "dev"}
	must.NoError(t, r.store.PutMember(t.Context(), record))
	members, err := r.store.ListMembers(t.Context())
	must.NoError(t, err)
	must.Len(t, 1, members)
	must.Eq(t, record, members[0].Value)
}

func testNames(t *testing.T, r *rig) {
	for _, name := range []string{"", "a/b", "..", "a b", "ü", strings.Repeat("x", 129)} {
		_, err := r.store.PutJob(t.Context(), r.consul.Token, job(name, "x"), state.AnyIndex)
		if name == "" { // a job without a namespace is in the default one
			must.NoError(t, err)
			must.NoError(t, r.store.DeleteJob(t.Context(), r.consul.Token, "default", "x", state.AnyIndex))
			continue
		}
		must.ErrorIs(t, err, state.ErrInvalid)
		must.ErrorIs(t, r.store.CanRead(t.Context(), r.consul.Token, name), state.ErrInvalid)
	}
	for _, id := range []string{"", strings.Repeat("x", 513), "a\x00b", ".", "..", "../team-b/x", "a..b", "a b"} {
		_, err := r.store.PutJob(t.Context(), r.consul.Token, job("default", id), state.AnyIndex)
		must.ErrorIs(t, err, state.ErrInvalid)
	}
	for _, id := range []string{"%2e%2e", "a//b", "a/b", "ü?#%", "a.b"} {
		_, err := r.store.PutJob(t.Context(), r.alice, job("default", id), 0)
		must.NoError(t, err)
		read, err := r.store.GetJob(t.Context(), "default", id)
		must.NoError(t, err)
		must.Eq(t, id, *read.Value.Job.ID)
		must.NoError(t, r.store.DeleteJob(t.Context(), r.alice, "default", id, read.Index))
	}
}

func testAway(t *testing.T, r *rig) {
	r.consul.Stop()
	_, err := r.store.ListJobs(t.Context(), "*")
	must.ErrorIs(t, err, state.ErrUnavailable)
	must.StrContains(t, err.Error(), "cannot reach Consul at "+r.consul.Address)
	must.StrContains(t, err.Error(), "start it")
	must.ErrorIs(t, r.store.CanRead(t.Context(), r.alice, "default"), state.ErrUnavailable)
	must.True(t, errors.Is(r.store.Ready(t.Context()), state.ErrUnavailable))
}
