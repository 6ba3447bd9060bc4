package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manifest = `{"schemaVersion":2}`

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// start serves h and returns its address.
func start(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	must.NoError(t, err)
	return u.Host
}

// fake answers as a registry with one manifest and one blob.
func fake(blob string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case strings.Contains(r.URL.Path, "/manifests/"):
			_, _ = io.WriteString(w, manifest)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(blob))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

func client(t *testing.T, opts Options) *Client {
	t.Helper()
	c := New(opts)
	t.Cleanup(c.Close)
	return c
}

func (c *Client) mustParse(t *testing.T, ref string) name.Reference {
	t.Helper()
	r, err := c.Parse(ref)
	must.NoError(t, err)
	return r
}

func TestOpenAndBlob(t *testing.T) {
	addr := start(t, fake("hello world"))
	c := client(t, Options{Insecure: []string{addr}})
	repo, m, err := c.Open(t.Context(), c.mustParse(t, addr+"/a/b:tag"), Credentials{})
	must.NoError(t, err)
	must.Eq(t, digestOf(manifest), m.Digest)
	r, err := repo.Blob(t.Context(), digestOf("hello world"), 11)
	must.NoError(t, err)
	got, err := io.ReadAll(r)
	must.NoError(t, err)
	must.NoError(t, r.Close())
	must.Eq(t, "hello world", string(got))
}

// TestPlainHTTPIsRefusedWhereverItComesFrom has the first hop allowed and a later one not.
func TestPlainHTTPIsRefusedWhereverItComesFrom(t *testing.T) {
	var reached atomic.Int64
	other := start(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Redirect(w, r, "http://"+other+"/stolen", http.StatusTemporaryRedirect)
			}
		},
		"token server": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+other+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, h)
			c := client(t, Options{Insecure: []string{addr}})
			_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{Username: "u", Password: "hunter2"})
			must.Error(t, err) // a token server at a private address is refused by the library even before
			must.StrNotContains(t, err.Error(), "hunter2")
			must.Eq(t, 0, reached.Load())
		})
	}
}

// TestLocalRegistryOverHTTPS has one at a local address, which the library pings over plain HTTP, too, fail in ways of its
// own: that plain HTTP is refused is the reason only where it speaks that.
func TestLocalRegistryOverHTTPS(t *testing.T) {
	open := func(t *testing.T, addr string, change func(*http.Transport)) error {
		c := client(t, Options{Named: []string{addr}})
		if change != nil {
			change(c.trusted.direct)
		}
		_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and never says anything
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, listener.Close()) })
	silent := listener.Addr().String()

	t.Run("speaks plain HTTP", func(t *testing.T) {
		err := open(t, start(t, fake("")), nil)
		must.ErrorIs(t, err, ErrPlainHTTP)
		must.True(t, IsFatal(err))
	})
	t.Run("is silent", func(t *testing.T) {
		err := open(t, silent, func(tr *http.Transport) { tr.TLSHandshakeTimeout = 50 * time.Millisecond })
		must.ErrorIs(t, err, ErrStalled)
	})
	t.Run("is away", func(t *testing.T) {
		// Whoever has a port and does not listen there keeps it from others.
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must.NoError(t, err)
		t.Cleanup(func() { must.NoError(t, unix.Close(socket)) })
		must.NoError(t, unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		own, err := unix.Getsockname(socket)
		must.NoError(t, err)
		err = open(t, fmt.Sprintf("127.0.0.1:%d", own.(*unix.SockaddrInet4).Port), nil)
		must.ErrorIs(t, err, unix.ECONNREFUSED)
		must.False(t, IsFatal(err))
	})
	t.Run("has trouble", func(t *testing.T) {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
		t.Cleanup(srv.Close)
		err := open(t, srv.Listener.Addr().String(), func(tr *http.Transport) {
			tr.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig
			tr.TLSHandshakeTimeout = time.Minute
		})
		must.ErrorContains(t, err, "HTTP 502")
		must.False(t, IsFatal(err))
	})
}

func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	var leaked atomic.Bool
	storage := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		_, _ = io.WriteString(w, "blob")
	})
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "u" || p != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+storage+"/signed", http.StatusTemporaryRedirect)
			return
		}
		fake("")(w, r)
	})
	c := client(t, Options{Insecure: []string{addr, storage}})
	repo, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{Username: "u", Password: "p"})
	must.NoError(t, err)
	r, err := repo.Blob(t.Context(), digestOf("blob"), 4)
	must.NoError(t, err)
	got, err := io.ReadAll(r)
	must.NoError(t, err)
	must.NoError(t, r.Close())
	must.Eq(t, "blob", string(got))
	must.False(t, leaked.Load())
}

func TestBearerTokens(t *testing.T) {
	addr := ""
	addr = start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if _, p, _ := r.BasicAuth(); p != "p" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"token":"t0k3n"}`)
		case r.Header.Get("Authorization") != "Bearer t0k3n":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+addr+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fake("")(w, r)
		}
	})
	c := client(t, Options{Insecure: []string{addr}})
	for password, want := range map[string]error{"p": nil, "wrong": ErrUnauthorized} {
		_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{Username: "u", Password: password})
		must.ErrorIs(t, err, want)
	}
}

func TestCredentialSources(t *testing.T) {
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != "from-helper" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fake("")(w, r)
	})
	dir := t.TempDir()
	helper := "#!/bin/sh\ncat >/dev/null\nprintf '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"%s\"}' from-helper\n"
	must.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, tc := range []struct {
		name, file, words string
	}{
		{"helper", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, addr), ""},
		{"store", `{"credsStore":"test"}`, ""},
		{"helper is missing", fmt.Sprintf(`{"credHelpers":{%q:"none"}}`, addr), "credential helper"},
		{"helper is missing, and none will do", fmt.Sprintf(`{"credHelpers":{%q:"none"}}`, addr), "access denied"},
		{"other registry", `{"credHelpers":{"other.example":"test"}}`, "access denied"},
		{"secret in a broken file", `{"auths":{"x":{"password":"hunter2"}`, "not a Docker config.json"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			must.NoError(t, os.WriteFile(path, []byte(tc.file), 0o600))
			c := client(t, Options{Insecure: []string{addr}, AuthFile: path})
			_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{SoftFail: strings.HasSuffix(tc.name, "none will do")})
			if tc.words == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.words)
			must.StrNotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestCredentialsDoNotPrint(t *testing.T) {
	c := Credentials{Username: "u", Password: "hunter2"}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%s", []any{c})} {
		must.StrNotContains(t, s, "hunter2")
	}
}

func TestBlobGivesUpWithoutProgress(t *testing.T) {
	var asked atomic.Int64
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			fake("")(w, r)
			return
		}
		asked.Add(1)
		w.Header().Set("Content-Length", "10")
		if r.Header.Get("Range") == "" {
			_, _ = io.WriteString(w, "12345")
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	c := client(t, Options{Insecure: []string{addr}})
	repo, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
	must.NoError(t, err)
	repo.stall = 250 * time.Millisecond // from here on
	r, err := repo.Blob(t.Context(), digestOf("x"), 10)
	must.NoError(t, err)
	got, err := io.ReadAll(r)
	must.ErrorIs(t, err, ErrStalled)
	must.False(t, IsFatal(err))
	must.Eq(t, "12345", string(got))
	must.NoError(t, r.Close())
	// On a busy machine a try may stall before the registry hears of it.
	must.Between(t, 2, asked.Load(), 1+maxResumes)
}

// TestOpenGivesUpWithoutAnswer has a registry that speaks plain HTTP be silent: that it speaks no TLS is not the reason.
func TestOpenGivesUpWithoutAnswer(t *testing.T) {
	addr := start(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := client(t, Options{Insecure: []string{addr}, Stall: 30 * time.Millisecond})
	_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
	must.ErrorIs(t, err, ErrStalled)
}

func TestBlobCloseEndsARead(t *testing.T) {
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			fake("")(w, r)
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	c := client(t, Options{Insecure: []string{addr}})
	repo, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
	must.NoError(t, err)
	r, err := repo.Blob(t.Context(), digestOf("x"), 10)
	must.NoError(t, err)
	done := make(chan error)
	go func() {
		_, err := r.Read(make([]byte, 10))
		done <- err
	}()
	must.NoError(t, r.Close())
	must.Error(t, <-done)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = repo.Blob(ctx, digestOf("x"), 10)
	must.ErrorIs(t, err, context.Canceled)
}
