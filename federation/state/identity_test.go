package state_test

import (
	"context"
	"encoding/pem"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"pangaea/federation/pool"
	"pangaea/federation/state"
	"pangaea/federation/tunnel"
)

func waitFor(ok func() bool) *wait.Constraint {
	return wait.InitialSuccess(wait.BoolFunc(ok), wait.Timeout(soon), wait.Gap(20*time.Millisecond))
}

// testIdentity joins a member and a gateway with real certificates, refuses what must be refused, and follows a
// rotation of the authority.
func testIdentity(t *testing.T, r *rig) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rules, err := state.PolicyMember("fr-par-1")
	must.NoError(t, err)
	memberToken := r.consul.TokenFor("member", rules)
	memberStore, err := state.Open(state.Config{Address: r.consul.Address, Token: memberToken})
	must.NoError(t, err)

	gateway, err := r.store.Identity(ctx, tunnel.ServiceGateway)
	must.NoError(t, err)
	member, err := memberStore.Identity(ctx, tunnel.MemberService("fr-par-1"))
	must.NoError(t, err)
	for _, other := range []string{tunnel.ServiceGateway, tunnel.MemberService("us-nyc-1"), tunnel.MemberService("fr-par-10")} {
		_, err = memberStore.Identity(ctx, other)
		must.ErrorIs(t, err, state.ErrPermission, must.Sprint(other))
		must.StrContains(t, err.Error(), "service:write")
	}
	_, err = memberStore.ListJobs(ctx, "*")
	if err == nil {
		jobs, _ := memberStore.ListJobs(ctx, "*")
		must.Len(t, 0, jobs)
	}
	must.ErrorIs(t, memberStore.PutMember(ctx, poolMember("fr-par-1")), state.ErrPermission)

	// Consul's agent must hold no key of ours: it would give it to anyone, whatever their token.
	leaf, _, err := r.consul.Client(r.consul.Token).Agent().ConnectCALeaf(tunnel.ServiceGateway, nil)
	must.NoError(t, err)
	own, err := gateway.Certificate()
	must.NoError(t, err)
	block, _ := pem.Decode([]byte(leaf.CertPEM))
	must.NotEq(t, own.Certificate[0], block.Bytes)

	join(t, ctx, gateway, member)
	before, err := member.Certificate()
	must.NoError(t, err)
	_, err = r.consul.Client(r.consul.Token).Connect().CASetConfig(&api.CAConfig{
		Provider: "consul", Config: map[string]any{"LeafCertTTL": "1h", "RotationPeriod": "2160h", "PrivateKeyType": "ec", "PrivateKeyBits": 384},
	}, nil)
	must.NoError(t, err)
	must.Wait(t, waitFor(func() bool {
		after, _ := member.Certificate()
		return string(after.Certificate[0]) != string(before.Certificate[0])
	}))
	must.Wait(t, waitFor(func() bool { return dials(ctx, gateway, member) == nil }))
	cancel()
	gateway.Wait()
	member.Wait()
}

func join(t *testing.T, ctx context.Context, gateway, member tunnel.Identity) {
	t.Helper()
	must.NoError(t, dials(ctx, gateway, member))
	// A gateway's certificate does not make a member, nor a member's a gateway.
	must.ErrorContains(t, dials(ctx, gateway, gateway), "refused this side's certificate")
	must.ErrorIs(t, dials(ctx, member, member), tunnel.ErrPeer)
}

// dials opens one tunnel between two identities.
func dials(ctx context.Context, gateway, member tunnel.Identity) error {
	listener, err := tunnel.Listen("127.0.0.1:0", tunnel.Config{Identity: gateway, Peer: tunnel.AcceptMembers})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = listener.Serve(ctx, func(ctx context.Context, s *tunnel.Session) { <-s.Done() })
	}()
	defer func() {
		cancel()
		<-done
	}()
	session, err := tunnel.Dial(ctx, listener.Addr().String(), tunnel.Config{Identity: member, Peer: tunnel.AcceptGateway})
	if err != nil {
		return err
	}
	return session.Close()
}

func poolMember(alias string) pool.MemberRecord { return pool.MemberRecord{Alias: alias} }
