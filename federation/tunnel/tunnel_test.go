package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/federation/leaktest"
	"pangaea/federation/tunnel"
	"pangaea/federation/tunnel/tunneltest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// rig is a listening gateway whose sessions answer with what they were asked.
type rig struct {
	ca      *tunneltest.CA
	address string
	log     *lockedBuffer
	arrived chan *tunnel.Session
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// soon is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const soon = 3 * time.Minute

// newRig has patience besides the limits given.
func newRig(t *testing.T, limits tunnel.Limits) *rig {
	t.Helper()
	patient := tunneltest.Patient()
	limits.KeepAlive, limits.WriteTimeout, limits.Handshake = patient.KeepAlive, patient.WriteTimeout, patient.Handshake
	r := &rig{ca: tunneltest.NewCA(t), log: &lockedBuffer{}, arrived: make(chan *tunnel.Session, 8)}
	listener, err := tunnel.Listen("127.0.0.1:0", tunnel.Config{
		Identity: r.ca.Identity(tunnel.ServiceGateway), Peer: tunnel.AcceptMembers, Limits: limits,
		Logger: hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Warn}),
	})
	must.NoError(t, err)
	r.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- listener.Serve(ctx, func(ctx context.Context, s *tunnel.Session) {
			r.arrived <- s
			_ = s.Serve(ctx, echo())
		})
	}()
	t.Cleanup(func() {
		cancel()
		must.NoError(t, <-done)
	})
	return r
}

func (r *rig) dial(t *testing.T, identity tunnel.Identity) (*tunnel.Session, error) {
	t.Helper()
	session, err := tunnel.Dial(t.Context(), r.address, tunnel.Config{Identity: identity, Peer: tunnel.AcceptGateway, Limits: tunneltest.Patient()})
	if err == nil {
		t.Cleanup(func() { _ = session.Close() })
	}
	return session, err
}

func (r *rig) refusals() int { return strings.Count(r.log.String(), "refused a tunnel") }

// awaitRefusals waits for the gateway's line about a refusal, which follows the alert that the dialler sees.
func (r *rig) awaitRefusals(t *testing.T, count int) {
	t.Helper()
	for r.refusals() < count {
		must.NoError(t, t.Context().Err())
		time.Sleep(time.Millisecond)
	}
}

// echo answers with the peer's name and the body, and echoes raw streams until they are half closed.
func echo() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		session, _ := tunnel.FromContext(r.Context())
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.WriteString(w, session.Peer()+" "+string(body))
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		stream, err := tunnel.AcceptStream(w, r)
		if err != nil {
			return
		}
		defer stream.Close()
		received, _ := io.ReadAll(stream) // until the other side is done sending
		_, _ = stream.Write(append([]byte("got "), received...))
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		for _, event := range []string{"one", "two"} {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})
	return mux
}

func ask(s *tunnel.Session, body string) (string, error) {
	client := &http.Client{Transport: s.Transport()}
	response, err := client.Post("http://peer/echo", "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

func TestBothWays(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	member, err := r.dial(t, r.ca.Identity(tunnel.MemberService("fr-par-1")))
	must.NoError(t, err)
	must.Eq(t, tunnel.ServiceGateway, member.Peer())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = member.Serve(context.Background(), echo())
	}()
	text, err := ask(member, "up")
	must.NoError(t, err)
	must.Eq(t, "fr-par-1 up", text)
	gateway := <-r.arrived
	must.Eq(t, "fr-par-1", gateway.Peer())
	text, err = ask(gateway, "down")
	must.NoError(t, err)
	must.Eq(t, tunnel.ServiceGateway+" down", text)
	must.NoError(t, member.Close())
	<-served
	<-gateway.Done()
	_, err = ask(gateway, "late")
	must.Error(t, err)
}

// TestRefusals checks each certificate that must not open a tunnel, and that both sides are told why.
func TestRefusals(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	other := tunneltest.NewCA(t)
	stranger := other.Identity(tunnel.MemberService("fr-par-1"))
	stranger.Trust = r.ca.Identity("x").Trust // it trusts us, we don't trust it
	for i, test := range []struct {
		name     string
		identity tunneltest.Identity
		log      string
	}{
		{"another authority", stranger, "not from this pool's authority"},
		{"not a member", r.ca.Identity("web"), `certificate is for service \"web\"`},
		{"a gateway", r.ca.Identity(tunnel.ServiceGateway), "followed by a member's alias"},
		{"no alias", r.ca.Identity("pangaea-member-"), "followed by a member's alias"},
		{"bad alias", r.ca.Named("x", "spiffe://td/ns/default/dc/dc1/svc/pangaea-member-a%2Fb", time.Hour), "not a service of the pool"},
		{"an agent's certificate", r.ca.Named("x", "spiffe://td/agent/client/dc/dc1/id/pangaea-member-x", time.Hour), "not a service of the pool"},
		{"another namespace", r.ca.Named("x", "spiffe://td/ns/evil/dc/dc1/svc/pangaea-member-x", time.Hour), "not a service of the pool"},
		{"not SPIFFE", r.ca.Named("x", "https://td/ns/default/dc/dc1/svc/pangaea-member-x", time.Hour), "not a service of the pool"},
		{"expired", r.ca.Named("x", "spiffe://td/ns/default/dc/dc1/svc/pangaea-member-x", -time.Second), "expired"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.dial(t, test.identity)
			must.ErrorContains(t, err, "refused this side's certificate")
			must.ErrorContains(t, err, "check the alias")
			r.awaitRefusals(t, i+1)
			must.StrContains(t, r.log.String(), test.log)
			must.StrContains(t, r.log.String(), "next_step")
		})
	}
	must.Eq(t, 0, len(r.arrived))
	t.Run("told once", func(t *testing.T) {
		lines := r.refusals()
		_, err := r.dial(t, stranger)
		must.Error(t, err)
		_, err = r.dial(t, r.ca.Named("x", "spiffe://td/ns/other/dc/dc1/svc/x", time.Hour))
		must.Error(t, err)
		r.awaitRefusals(t, lines+1) // the new cause is told, the old is not
		must.Eq(t, lines+1, r.refusals())
	})
	t.Run("wrong gateway", func(t *testing.T) {
		_, err := r.dial(t, other.Identity(tunnel.MemberService("fr-par-1")))
		must.ErrorIs(t, err, tunnel.ErrPeer)
		must.ErrorContains(t, err, "check that gateways lists this pool's gateway")
	})
	t.Run("no gateway", func(t *testing.T) {
		_, err := tunnel.Dial(t.Context(), "127.0.0.1:1", tunnel.Config{})
		must.ErrorContains(t, err, "cannot reach gateway 127.0.0.1:1")
	})
	t.Run("port taken", func(t *testing.T) {
		_, err := tunnel.Listen(r.address, tunnel.Config{})
		must.ErrorContains(t, err, "choose another address")
	})
}

func TestStreams(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	member, err := r.dial(t, r.ca.Identity(tunnel.MemberService("fr-par-1")))
	must.NoError(t, err)
	stream, err := member.OpenStream(t.Context(), "/stream", url.Values{"a": {"b c"}})
	must.NoError(t, err)
	_, err = stream.Write([]byte("payload"))
	must.NoError(t, err)
	must.NoError(t, stream.CloseWrite())
	text, err := io.ReadAll(stream)
	must.NoError(t, err)
	must.Eq(t, "got payload", string(text))
	must.NoError(t, stream.Close())
	must.NoError(t, stream.Close())

	_, err = member.OpenStream(t.Context(), "/nothing", nil)
	var refused *tunnel.StreamError
	must.True(t, errors.As(err, &refused))
	must.Eq(t, http.StatusNotFound, refused.Status)

	// Closing a stream wakes whoever reads from it, though the peer has not ended its side.
	stream, err = member.OpenStream(t.Context(), "/stream", nil)
	must.NoError(t, err)
	woken := make(chan error, 1)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		woken <- err
	}()
	must.NoError(t, stream.Close())
	must.Error(t, <-woken)

	// Each flush arrives by itself.
	response, err := (&http.Client{Transport: member.Transport()}).Get("http://peer/events")
	must.NoError(t, err)
	defer response.Body.Close()
	first := make([]byte, 6)
	_, err = io.ReadFull(response.Body, first)
	must.NoError(t, err)
	must.Eq(t, "onetwo", string(first))
}

func TestLimits(t *testing.T) {
	r := newRig(t, tunnel.Limits{MaxBodyBytes: 100, MaxStreams: 2, MaxSessions: 1})
	member, err := r.dial(t, r.ca.Identity(tunnel.MemberService("fr-par-1")))
	must.NoError(t, err)
	text, err := ask(member, strings.Repeat("x", 101))
	must.NoError(t, err)
	must.StrContains(t, text, "too large")
	_, err = r.dial(t, r.ca.Identity(tunnel.MemberService("us-nyc-1")))
	must.Error(t, err)
	open := 0
	for range 4 {
		_, err := member.OpenStream(t.Context(), "/stream", nil)
		if err == nil {
			open++
		}
	}
	must.Between(t, 1, open, 2)
}

// TestSessionsOfOnePeer checks that a peer cannot take the sessions of others, and that one that ended counts no more.
func TestSessionsOfOnePeer(t *testing.T) {
	r := newRig(t, tunnel.Limits{MaxPerPeer: 2})
	greedy := r.ca.Identity(tunnel.MemberService("fr-par-1"))
	first, err := r.dial(t, greedy)
	must.NoError(t, err)
	_, err = r.dial(t, greedy)
	must.NoError(t, err)
	_, err = r.dial(t, greedy)
	must.Error(t, err)
	r.awaitRefusals(t, 1)
	must.StrContains(t, r.log.String(), "fr-par-1 has 2 sessions already")
	_, err = r.dial(t, r.ca.Identity(tunnel.MemberService("us-nyc-1")))
	must.NoError(t, err)
	must.NoError(t, first.Close())
	for { // the listener hears of the end a moment later
		_, err = r.dial(t, greedy)
		if err == nil {
			break
		}
		must.NoError(t, t.Context().Err())
		time.Sleep(time.Millisecond)
	}
}

// TestSilence checks that a peer that vanishes without a word is noticed, by way of a proxy that stops carrying.
func TestSilence(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	config := tunnel.Config{Identity: r.ca.Identity(tunnel.MemberService("fr-par-1")), Peer: tunnel.AcceptGateway}
	for try := 1; ; try++ {
		// The shortest limits under which a session lives on this machine, which may be busy with something else.
		config.Limits = tunnel.Limits{KeepAlive: time.Duration(try) * 100 * time.Millisecond, WriteTimeout: time.Duration(try) * 200 * time.Millisecond, Handshake: soon}
		proxy := newProxy(t, r.address)
		session, err := tunnel.Dial(t.Context(), proxy.address, config)
		must.NoError(t, err)
		defer session.Close()
		_, err = ask(session, "hello")
		if err != nil {
			must.Less(t, 50, try, must.Sprint(err))
			continue
		}
		proxy.stop()
		select {
		case <-session.Done():
		case <-time.After(soon):
			t.Fatal("a silent peer is not noticed")
		}
		return
	}
}

func TestCertificateEnds(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	life := 2 * time.Second
	session, err := r.dial(t, r.ca.Named("x", "spiffe://td/ns/default/dc/dc1/svc/pangaea-member-x", life))
	for err != nil && life < soon { // it ended before the session began
		life *= 2
		session, err = r.dial(t, r.ca.Named("x", "spiffe://td/ns/default/dc/dc1/svc/pangaea-member-x", life))
	}
	must.NoError(t, err)
	select {
	case <-session.Done():
	case <-time.After(life + soon):
		t.Fatal("a session outlives its certificate")
	}
}

func TestRun(t *testing.T) {
	r := newRig(t, tunnel.Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	sessions := make(chan *tunnel.Session)
	done := make(chan struct{})
	go func() {
		defer close(done)
		config := tunnel.Config{Identity: r.ca.Identity(tunnel.MemberService("fr-par-1")), Peer: tunnel.AcceptGateway, Limits: tunneltest.Patient()}
		tunnel.Run(ctx, r.address, config, tunnel.Backoff{Min: time.Millisecond}, func(ctx context.Context, s *tunnel.Session) {
			sessions <- s
			<-s.Done()
		})
	}()
	first := <-sessions
	_ = (<-r.arrived).Close()
	<-first.Done()
	second := <-sessions
	must.NotEq(t, first, second)
	cancel()
	<-done
	<-second.Done()
}

func TestAlias(t *testing.T) {
	for alias, ok := range map[string]bool{
		"fr-par-1": true, "a": true, "0": true, "": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false,
		"é": false, strings.Repeat("a", 40): true, strings.Repeat("a", 41): false,
	} {
		must.Eq(t, ok, tunnel.ValidAlias(alias), must.Sprint(alias))
	}
}

// proxy carries bytes to a target until it is stopped, and then keeps the connections open in silence.
type proxy struct {
	address string
	silent  chan struct{}
	once    sync.Once
}

func (p *proxy) stop() { p.once.Do(func() { close(p.silent) }) }

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	p := &proxy{address: listener.Addr().String(), silent: make(chan struct{})}
	var group sync.WaitGroup
	group.Go(func() {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			group.Go(func() { p.carry(pair[0], pair[1]) })
		}
		t.Cleanup(func() {
			_ = near.Close()
			_ = far.Close()
			group.Wait()
		})
	})
	t.Cleanup(func() { _ = listener.Close() })
	return p
}

func (p *proxy) carry(from, to net.Conn) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-p.silent:
			continue
		default:
		}
		_, err = to.Write(buffer[:n])
		if err != nil {
			return
		}
	}
}
