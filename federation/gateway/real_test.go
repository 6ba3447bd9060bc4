package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/state"
	"pangaea/federation/state/statetest"
	"pangaea/federation/tunnel"
)

// realGateway is a gateway as an operator runs it, on a real Consul.
type realGateway struct {
	http, tunnel string
	stop         func()
	log          *syncBuffer
}

type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func configFor(t *testing.T, consul *statetest.Consul, tokenFile string, ports []int) Config {
	t.Helper()
	config, err := LoadConfig(configFile(t, consul, tokenFile, ports, time.Minute))
	must.NoError(t, err)
	return config
}

func configFile(t *testing.T, consul *statetest.Consul, tokenFile string, ports []int, ttl time.Duration) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.hcl")
	must.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
ports {
  http   = %d
  tunnel = %d
}
consul {
  address      = %q
  grpc_address = %q
  token_file   = %q
  session_ttl  = %q
  lock_delay   = "1ms"
}
clocks {
  suspect_after  = "3m"
  detached_after = "3m"
}
`, ports[0], ports[1], consul.Address, consul.GRPCAddress, tokenFile, ttl.String()), 0o600))
	return file
}

func startReal(t *testing.T, config Config, ports []int) *realGateway {
	t.Helper()
	g := &realGateway{http: fmt.Sprintf("127.0.0.1:%d", ports[0]), tunnel: fmt.Sprintf("127.0.0.1:%d", ports[1]), log: &syncBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, config, hclog.New(&hclog.LoggerOptions{Output: g.log})) }()
	var once sync.Once
	g.stop = func() {
		once.Do(func() {
			cancel()
			must.NoError(t, <-done)
		})
	}
	t.Cleanup(func() {
		g.stop()
		if t.Failed() {
			t.Logf("gateway %s:\n%s", g.http, g.log.String())
		}
	})
	return g
}

// dialReal keeps a fake member connected to gateways over TLS with certificates from Consul.
func (m *fakeMember) dialReal(ctx context.Context, identity tunnel.Identity, gateways ...*realGateway) {
	var group sync.WaitGroup
	for _, g := range gateways {
		group.Go(func() {
			tunnel.Run(ctx, g.tunnel, tunnel.Config{Identity: identity, Peer: tunnel.AcceptGateway}, tunnel.Backoff{Min: 50 * time.Millisecond, Max: 200 * time.Millisecond},
				func(ctx context.Context, s *tunnel.Session) {
					var serving sync.WaitGroup
					serving.Go(func() { _ = s.Serve(ctx, m.handler()) })
					m.talk(ctx, s)
					_ = s.Close()
					serving.Wait()
				})
		})
	}
	group.Wait()
}

// talk tells a gateway everything, again and again, as an agent that finds out who leads.
func (m *fakeMember) talk(ctx context.Context, s *tunnel.Session) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	synced := false
	for {
		m.mu.Lock()
		sync := pool.SyncRequest{Version: "test", Place: m.place, Price: m.price}
		for _, run := range m.runs {
			sync.Placements = append(sync.Placements, run.PlacementRef)
		}
		status := pool.Status{}
		for _, stub := range m.allocs {
			copied := *stub
			status.Allocations = append(status.Allocations, &copied)
		}
		m.mu.Unlock()
		if !synced {
			synced = put(ctx, s, pool.PathSync, sync)
		}
		if synced {
			synced = put(ctx, s, pool.PathStatus, status) && put(ctx, s, pool.PathOffer, m.offerNow())
		}
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			return
		case <-ticker.C:
		}
	}
}

func put(ctx context.Context, s *tunnel.Session, path string, body any) bool {
	data, _ := json.Marshal(body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://gateway"+path, bytes.NewReader(data))
	if err != nil {
		return false
	}
	response, err := s.Transport().RoundTrip(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// TestRealConsul runs two gateways on a real Consul with access control: users' tokens are judged by it, a follower
// passes requests on, and when the leader goes the other carries on with everything.
func TestRealConsul(t *testing.T) {
	consul := statetest.Start(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(tokenFile, []byte(consul.TokenFor("gateway", state.PolicyGateway())), 0o600))
	rules, err := state.PolicyUser("default")
	must.NoError(t, err)
	user := consul.TokenFor("user", rules)
	rules, err = state.PolicyMember("fr-par-1")
	must.NoError(t, err)
	memberStore, err := state.Open(state.Config{Address: consul.Address, GRPCAddress: consul.GRPCAddress, Token: consul.TokenFor("member", rules)})
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	identity, err := memberStore.Identity(ctx, tunnel.MemberService("fr-par-1"))
	must.NoError(t, err)

	ports := statetest.FreePorts(t, 4)
	first := startReal(t, configFor(t, consul, tokenFile, ports[:2]), ports[:2])
	awaitLog(t, first, "leading the pool")
	second := startReal(t, configFor(t, consul, tokenFile, ports[2:]), ports[2:])
	awaitLog(t, second, "gateway is up")

	m := france()
	m.t, m.pool = t, &fakePool{t: t, members: map[string]*fakeMember{}}
	m.runs, m.evals, m.allocs = map[jobKey]pool.CommitRequest{}, map[jobKey]string{}, map[string]*api.AllocationListStub{}
	done := make(chan struct{})
	go func() { defer close(done); m.dialReal(ctx, identity, first, second) }()
	defer func() { cancel(); <-done; identity.Wait(); m.set(func() { m.gone = true }); m.pool.errands.wait() }()

	awaitLog(t, first, "to=ready")
	job := writeSpec(t)
	output, status := realCLI(t, second.http, user, "job", "run", job)
	must.Eq(t, 0, status, must.Sprint(output))
	must.StrContains(t, output, `finished with status "complete"`)
	for _, token := range []string{"", "00000000-0000-0000-0000-000000000bad"} {
		output, status = realCLI(t, second.http, token, "job", "stop", "web")
		must.Eq(t, 1, status)
		must.StrContains(t, output, "Permission denied")
	}
	output, _ = realCLI(t, first.http, user, "job", "status", "-namespace", "other", "web")
	must.StrContains(t, output, "Permission denied")

	commits := m.commitCount()
	first.stop()
	awaitLog(t, second, "leading the pool: jobs=1")
	awaitLog(t, second, "to=ready")
	output, status = realCLI(t, second.http, user, "job", "status", "web")
	must.Eq(t, 0, status, must.Sprint(output))
	must.StrContains(t, output, "running")
	must.Eq(t, commits, m.commitCount(), must.Sprint("the new leader ran it again"))
	output, status = realCLI(t, second.http, user, "job", "scale", "web", "3")
	must.Eq(t, 0, status, must.Sprint(output))
	output, status = realCLI(t, second.http, user, "job", "stop", "-purge", "web")
	must.Eq(t, 0, status, must.Sprint(output))
	must.False(t, m.runsJob("web"))
}

func awaitLog(t *testing.T, g *realGateway, text string) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for !strings.Contains(g.log.String(), text) {
		must.True(t, time.Now().Before(deadline), must.Sprintf("no %q in the log", text))
		time.Sleep(20 * time.Millisecond)
	}
}

func realCLI(t *testing.T, address, token string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
	defer cancel()
	command := exec.CommandContext(ctx, nomadBinary(t), args...)
	command.Env = []string{"NOMAD_ADDR=http://" + address, "NOMAD_TOKEN=" + token, "HOME=" + t.TempDir()}
	text, _ := command.CombinedOutput()
	return string(text), command.ProcessState.ExitCode()
}

// TestStartErrors checks what an operator is told about a gateway that cannot start.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, one := range []struct {
		name   string
		config Config
		want   string
	}{
		{"port taken", Config{Ports: &Ports{HTTP: port}}, "choose another port with ports.http or stop what holds it"},
		{"no duration", Config{Clocks: &Clocks{SuspectAfter: "soon"}}, `clocks.suspect_after = "soon" is no duration`},
		{"clocks in disorder", Config{Clocks: &Clocks{SuspectAfter: "1m", DetachedAfter: "1s"}}, "a member is suspected first"},
		{"negative limit", Config{Limits: &Limits{Workers: -1}}, "limits must not be negative"},
		{"no certificate", Config{TLS: &TLS{CertFile: "/nowhere", KeyFile: "/nowhere"}}, "correct tls.cert_file"},
		{"no token file", Config{Ports: &Ports{HTTP: -1}, Consul: &Consul{TokenFile: "/nowhere"}}, "cannot read consul.token_file"},
	} {
		t.Run(one.name, func(t *testing.T) {
			must.ErrorContains(t, Run(context.Background(), one.config, hclog.NewNullLogger()), one.want)
		})
	}
	file := filepath.Join(t.TempDir(), "g.hcl")
	must.NoError(t, os.WriteFile(file, []byte("prots {}"), 0o600))
	_, err = LoadConfig(file)
	must.ErrorContains(t, err, "prots")
}

// TestWithoutConsul checks that users are told what is missing, and that the gateway goes on by itself once it is there.
func TestWithoutConsul(t *testing.T) {
	ports := statetest.FreePorts(t, 3)
	config := Config{Ports: &Ports{HTTP: ports[0], Tunnel: ports[1]}, Consul: &Consul{Address: fmt.Sprintf("127.0.0.1:%d", ports[2])}}
	g := startReal(t, config, ports)
	awaitLog(t, g, "waiting for Consul")
	output, status := realCLI(t, g.http, "", "job", "status")
	must.Eq(t, 1, status)
	must.StrContains(t, output, fmt.Sprintf("cannot reach Consul at 127.0.0.1:%d", ports[2]))
	must.StrContains(t, output, "start it or correct consul.address")
}

// TestConsulGoesAway takes Consul from a leading gateway: users are told so, and all is there when it is back.
func TestConsulGoesAway(t *testing.T) {
	consul := statetest.Start(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(tokenFile, []byte(consul.Token), 0o600))
	ports := statetest.FreePorts(t, 2)
	g := startReal(t, configFor(t, consul, tokenFile, ports), ports)
	awaitLog(t, g, "leading the pool")
	consul.Stop()
	output, status := realCLI(t, g.http, consul.Token, "job", "run", writeSpec(t))
	must.Eq(t, 1, status)
	must.StrContains(t, output, "Consul")
}

func writeSpec(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte(webSpec), 0o600))
	return file
}
