package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/shoenig/test/must"
)

// helper installs docker-credential-test, which runs script.
func helper(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestHelperAnswers(t *testing.T) {
	t.Setenv("NOMAD_TOKEN", "hunter2")
	for _, tc := range []struct{ name, script, user, password, token, words string }{
		{name: "password", script: `read s; echo '{"Username":"u","Secret":"'$s-$1'"}'`, user: "u", password: "reg.example-get"},
		{name: "identity token", script: `echo '{"Username":"<token>","Secret":"t"}'`, token: "t"},
		{name: "nothing known", script: `echo 'credentials not found in native keychain'; exit 1`},
		{name: "bare environment", script: `echo '{"Username":"u","Secret":"'"$NOMAD_TOKEN"x'"}'`, user: "u", password: "x"},
		{name: "failure keeps its secret", script: `echo hunter2; echo hunter2 >&2; exit 3`, words: "exit status 3"},
		{name: "no JSON", script: `echo hunter2`, words: "not JSON"},
		{name: "endless", script: `while :; do echo hunter2hunter2hunter2hunter2hunter2hunter2hunter2; done`, words: "printed more than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			helper(t, tc.script)
			ac, err := askHelper(t.Context(), "test", "reg.example")
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				must.StrNotContains(t, err.Error(), "hunter2")
				return
			}
			must.NoError(t, err)
			must.Eq(t, []string{tc.user, tc.password, tc.token}, []string{ac.Username, ac.Password, ac.IdentityToken})
		})
	}
	for _, name := range []string{"../../tmp/x", "", "a b", "a/b"} {
		_, err := askHelper(t.Context(), name, "reg.example")
		must.ErrorContains(t, err, "name")
	}
}

// TestHelperHangs has a child of the helper's hold on to its output, too.
func TestHelperHangs(t *testing.T) {
	helper(t, "sleep 600 & sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := askHelper(ctx, "test", "reg.example")
	must.ErrorIs(t, err, context.DeadlineExceeded)
	must.Less(t, 30*time.Second, time.Since(began))
}

// TestIdentityTokens are exchanged for a token of the registry by OAuth, and never sent to the registry itself.
func TestIdentityTokens(t *testing.T) {
	addr := ""
	addr = start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if r.Method != http.MethodPost || r.FormValue("refresh_token") != "hunter2" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"access_token":"t0k3n"}`)
		case strings.Contains(r.Header.Get("Authorization"), "hunter2"):
			t.Error("the registry got the identity token")
		case r.Header.Get("Authorization") != "Bearer t0k3n":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+addr+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fake("")(w, r)
		}
	})
	path := filepath.Join(t.TempDir(), "config.json")
	for token, want := range map[string]error{"hunter2": nil, "old": ErrUnauthorized} {
		must.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"identitytoken":%q}}}`, addr, token), 0o600))
		c := client(t, Options{Insecure: []string{addr}, AuthFile: path})
		_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{})
		must.ErrorIs(t, err, want)
	}
}

// TestTokenAnswersAreNotQuoted has a token server answer with a secret where none is expected.
func TestTokenAnswersAreNotQuoted(t *testing.T) {
	for _, answer := range []string{`{"refresh_token":"hunter2"}`, `hunter2`, `{"token":["hunter2"]}`, strings.Repeat("hunter2", 1<<20)} {
		addr := ""
		addr = start(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, answer)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+addr+`/token",service="hunter2"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		c := client(t, Options{Insecure: []string{addr}})
		_, _, err := c.Open(t.Context(), c.mustParse(t, addr+"/a:b"), Credentials{Username: "u", Password: "hunter2"})
		must.Error(t, err)
		must.StrNotContains(t, err.Error(), "hunter2")
		must.Less(t, 400, len(err.Error()))
	}
}

// FuzzAuthFile reads arbitrary Docker config files: credentials or an error, nothing run that is no helper, never what
// the file holds in an error.
func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"registry.example":{"auth":"dTpodW50ZXIy"}}}`))
	f.Add([]byte(`{"auths":{"https://registry.example/v2/":{"username":"u","password":"hunter2","identitytoken":"t"}}}`))
	f.Add([]byte(`{"credHelpers":{"registry.example":"../../../bin/sh"},"credsStore":"x"}`))
	f.Add([]byte(`{"auths":{"registry.example":{"auth":"hunter2"}},"HttpHeaders":{"X":"y"}}`))
	f.Add([]byte(`{"auths":null,"proxies":{"default":{"httpProxy":"x"}}}`))
	f.Setenv("PATH", f.TempDir())
	reg, err := name.NewRegistry("registry.example")
	must.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte) {
		path := filepath.Join(t.TempDir(), "config.json")
		must.NoError(t, os.WriteFile(path, body, 0o600))
		auth, err := fromFile(t.Context(), path, reg)
		if err != nil {
			must.StrNotContains(t, err.Error(), "hunter2")
			must.Less(t, 4096, len(err.Error()))
			return
		}
		_, err = auth.Authorization()
		must.NoError(t, err)
	})
}
