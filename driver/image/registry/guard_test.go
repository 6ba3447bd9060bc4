package registry

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "172.32.0.1": true, "192.167.255.255": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "127.0.0.1": false, "127.8.8.8": false,
		"0.0.0.0": false, "169.254.169.254": false, "100.100.100.200": false, "192.0.0.192": false, "168.63.129.16": false,
		"224.0.0.1": false, "255.255.255.255": false, "198.18.0.1": false, "::1": false, "::": false, "fe80::1": false, "fe80::1%lo": false,
		"fd00:ec2::254": false, "fc00::1": false, "ff02::1": false, "64:ff9b::a00:1": false, "::ffff:10.0.0.1": false, "::ffff:127.0.0.1": false,
		"2002:a00:1::": false, "2001:0:1::": false, "::10.0.0.1": false,
	} {
		must.Eq(t, want, public(netip.MustParseAddr(addr)), must.Sprint(addr))
	}
	must.False(t, public(netip.Addr{}))
}

func TestNames(t *testing.T) {
	n := names{}
	n.add("registry.lan:5000", "Other.lan", "[fd00::1]:5000", "[fd00::2]")
	for host, want := range map[string]bool{
		"registry.lan:5000": true, "REGISTRY.lan:5000": true, "registry.lan": false, "registry.lan:443": false, "other.lan": true, "other.lan:443": true,
		"other.lan:80": true, "other.lan:22": false, "[fd00::1]:5000": true, "[fd00::1]:22": false, "[fd00::2]:443": true, "": false,
	} {
		must.Eq(t, want, n.has(host), must.Sprint(host))
	}
}

// trap is a server that nobody may reach.
func trap(t *testing.T) (string, *atomic.Int64) {
	t.Helper()
	reached := &atomic.Int64{}
	return start(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }), reached
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	victim, reached := trap(t)
	_, port, _ := strings.Cut(victim, ":")
	for _, ref := range []string{
		victim + "/a:b", "localhost:" + port + "/a:b", "[::1]:" + port + "/a:b", "127.1.2.3:" + port + "/a:b",
		"[::ffff:127.0.0.1]:" + port + "/a:b", "169.254.169.254/latest:meta-data",
	} {
		t.Run(ref, func(t *testing.T) {
			c := client(t, Options{})
			r, err := c.Parse(ref)
			if err != nil {
				return // no reference at all
			}
			_, _, err = c.Open(t.Context(), r, Credentials{})
			must.ErrorIs(t, err, ErrPrivate)
			must.True(t, IsFatal(err))
			must.StrNotContains(t, err.Error(), "127.0.0.1") // nor what a name stands for
		})
	}
	must.Eq(t, 0, reached.Load())
}

// TestPrivateAddressesAreRefusedOnTheWay has a registry that may be asked send its client on.
func TestPrivateAddressesAreRefusedOnTheWay(t *testing.T) {
	victim, reached := trap(t)
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Redirect(w, r, "https://"+victim+"/admin", http.StatusTemporaryRedirect)
			}
		},
		"redirect of the ping": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+victim+"/admin", http.StatusTemporaryRedirect)
		},
		"token server": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://localhost:`+strings.Split(victim, ":")[1]+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, h)
			c := client(t, Options{Insecure: []string{addr}})
			_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
			must.ErrorIs(t, err, ErrPrivate)
			must.StrNotContains(t, err.Error(), "admin")
		})
	}
	must.Eq(t, 0, reached.Load())
}

// TestNamedRegistriesAreForTheirOwnImages keeps a stranger's registry from sending its client to one that the
// operator named.
func TestNamedRegistriesAreForTheirOwnImages(t *testing.T) {
	victim, reached := trap(t)
	c := client(t, Options{Insecure: []string{victim}, Named: []string{"registry.lan", "docker.io"}, Mirrors: map[string][]string{"far.example": {"10.1.1.1:5000/cache"}}})
	for host, trusted := range map[string]bool{victim: true, "registry.lan": true, "far.example": true, "10.1.1.1:5000": true, "index.docker.io": true, "registry.example": false} {
		must.Eq(t, trusted, c.network(host) == c.trusted, must.Sprint(host))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+victim+"/v2/", nil)
	must.NoError(t, err)
	_, err = c.network("registry.example").RoundTrip(req) //nolint:bodyclose // there is none
	must.ErrorIs(t, err, ErrPrivate)
	must.Eq(t, 0, reached.Load())
	resp, err := c.network(victim).RoundTrip(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, 1, reached.Load())
}

// TestPrivateAddressesAreRefusedBehindAProxy, where the proxy would make the connection.
func TestPrivateAddressesAreRefusedBehindAProxy(t *testing.T) {
	asked := &atomic.Int64{}
	proxy := start(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNoContent) })
	via := func(*http.Request) (*url.URL, error) { return url.Parse("http://" + proxy) }
	named := names{}
	named.add("10.9.9.9:5000")
	n := newNetwork(named, time.Minute, via)
	defer n.close()
	for target, want := range map[string]error{
		"http://10.9.9.9:5000/v2/": nil, "http://10.9.9.9:22/": ErrPrivate, "http://localhost/": ErrPrivate, "http://169.254.169.254/": ErrPrivate,
		"http://1.1.1.1/v2/": nil, "http://registry.invalid/v2/": nil,
	} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, target, nil)
		must.NoError(t, err)
		resp, err := n.RoundTrip(req)
		must.ErrorIs(t, err, want, must.Sprint(target))
		if err == nil {
			must.NoError(t, resp.Body.Close())
		}
	}
	must.Eq(t, 3, asked.Load())
}
