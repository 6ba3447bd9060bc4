package driver

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// front is a registry that stands before the world's own.
func front(t *testing.T, target *string, before func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: *target}) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestRootSecretsStayOut uses credentials of every kind, right and wrong, and looks for them wherever the driver says
// or keeps anything.
func TestRootSecretsStayOut(t *testing.T) {
	const secret = "correct-horse-battery"
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-leaky"), []byte("#!/bin/sh\necho "+secret+"; echo "+secret+" >&2; exit 1\n"), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	authFile := filepath.Join(dir, "config.json")
	var target string
	locked := front(t, &target, func(w http.ResponseWriter, r *http.Request) bool {
		_, password, _ := r.BasicAuth()
		if password == secret {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="`+secret+`"`)
		http.Error(w, "no, "+password+" is not "+secret, http.StatusUnauthorized)
		return false
	})
	w := newWorld(t, func(c *Config) {
		target = c.InsecureRegistries[0]
		c.InsecureRegistries = append(c.InsecureRegistries, locked)
		c.Auth.Config = authFile
	})
	events := w.events(t)
	said := ""
	for _, c := range []struct {
		name, image, password, file, words string
	}{
		{"job", "busybox:1", secret, "{}", ""},
		{"file", "user:1", "", fmt.Sprintf(`{"auths":{%q:{"username":"u","password":%q}}}`, locked, secret), ""},
		{"wrong", "busybox:2", secret + "x", "{}", "access denied"},
		{"no such tag", "busybox:2", secret, "{}", "not found"},
		{"leaky helper, and none will do", "busybox:2", "", fmt.Sprintf(`{"credHelpers":{%q:"leaky"}}`, locked), "access denied"},
		{"leaky helper", "busybox:2", "", fmt.Sprintf(`{"credHelpers":{%q:"leaky"}}`, locked), "credential helper"},
		{"broken file", "busybox:2", "", fmt.Sprintf(`{"auths":{%q:{"password":%q}`, locked, secret), "not a Docker config.json"},
	} {
		must.NoError(t, os.WriteFile(authFile, []byte(c.file), 0o600))
		job := JobConfig{Image: locked + "/" + c.image, Entrypoint: []string{"/bin/true"}}
		job.AuthSoftFail = strings.HasSuffix(c.name, "none will do")
		if c.password != "" {
			job.Auth = JobAuth{"u", c.password}
		}
		cfg := w.prepare(t, job, c.words == "")
		if c.words == "" {
			said += fmt.Sprintf("%+v", w.start(t, cfg).DriverState)
			status, err := w.driver.InspectTask(cfg.ID)
			must.NoError(t, err)
			must.StrHasPrefix(t, "sha256:", status.DriverAttributes["digest"])
			said += fmt.Sprintf("%+v", status)
			events.await(t, cfg.ID, "is "+status.DriverAttributes["digest"])
			said += events.String()
			continue
		}
		_, _, err := w.harness.StartTask(cfg)
		must.ErrorContains(t, err, c.words, must.Sprint(c.name))
		said += err.Error()
	}
	must.StrNotContains(t, said, secret)
	must.StrContains(t, w.logs.String(), "start step")
	must.StrNotContains(t, w.logs.String(), secret)
	must.NoError(t, filepath.WalkDir(w.state, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() { // what a task makes comes and goes
			body, _ := os.ReadFile(path)
			must.StrNotContains(t, string(body), secret, must.Sprint(path))
		}
		return nil
	}))
}

// TestRootStopCancelsAPull stops or destroys tasks whose image never comes.
func TestRootStopCancelsAPull(t *testing.T) {
	var target string
	began, ended := make(chan struct{}, 8), make(chan struct{}, 8)
	stuck := front(t, &target, func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return true
		}
		began <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
		return false
	})
	w := newWorld(t, func(c *Config) {
		target = c.InsecureRegistries[0]
		c.InsecureRegistries = append(c.InsecureRegistries, stuck)
	})
	for name, stop := range map[string]func(id string) error{
		"stop":               func(id string) error { return w.harness.StopTask(id, time.Minute, "") },
		"destroy":            func(id string) error { return w.harness.DestroyTask(id, true) },
		"the job's own time": nil,
	} {
		job := JobConfig{Image: stuck + "/busybox:1"}
		if stop == nil {
			job.PullTimeout = "3s"
		}
		cfg := w.prepare(t, job, false)
		result := make(chan error, 1)
		go func() {
			_, _, err := w.harness.StartTask(cfg)
			result <- err
		}()
		text := "took longer than the job's image_pull_timeout of 3s"
		if stop != nil {
			receive(t, began)
			text = "the start was cancelled"
			must.NoError(t, stop(cfg.ID))
		}
		err := receive(t, result)
		if stop == nil && len(began) == 0 {
			continue // the time was over before this machine had come to ask for a blob
		}
		if stop == nil {
			receive(t, began)
		}
		must.ErrorContains(t, err, text, must.Sprint(name))
		must.Eq(t, stop == nil, structs.IsRecoverable(err))
		receive(t, ended) // and the registry is no longer asked
		_, err = w.driver.InspectTask(cfg.ID)
		must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	}
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
