package image

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/shoenig/test/must"
)

func TestRootPullPicksThisPlatform(t *testing.T) {
	t.Parallel()
	h := serve(t, nil)
	arm := imageOf(t, v1.Config{User: "arm"}, tarOf(t, file("a", "b")))
	index := func(adds ...mutate.IndexAddendum) v1.ImageIndex { return mutate.AppendManifests(empty.Index, adds...) }
	entry := func(img mutate.Appendable, os, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}}
	}
	deep := mutate.Appendable(simple(t))
	nested := func(depth int) v1.ImageIndex {
		idx := index(entry(deep, "linux", "amd64"))
		for range depth {
			idx = index(mutate.IndexAddendum{Add: idx})
		}
		return idx
	}
	for _, tc := range []struct {
		name  string
		index v1.ImageIndex
		words string
	}{
		{"several", index(entry(arm, "linux", "arm64"), entry(arm, "unknown", "unknown"), entry(simple(t), "linux", "amd64")), ""},
		{"none", index(entry(arm, "linux", "arm64"), entry(arm, "windows", "amd64")), "no variant for this machine"},
		{"nested", nested(3), ""},
		{"too deep", nested(5), "nest more than"},
		{"empty", index(), "no variant"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tag, err := name.ParseReference(h.addr+"/multi:"+strings.ReplaceAll(tc.name, " ", "-"), name.Insecure)
			must.NoError(t, err)
			must.NoError(t, remote.WriteIndex(tag, tc.index))
			s := open(t, Options{}, h)
			img, err := s.Pull(within(t), PullRequest{Ref: tag.Name()})
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				must.False(t, IsRecoverable(err))
				return
			}
			must.NoError(t, err)
			must.Eq(t, "7:8", img.Config.User)
		})
	}
}

func TestRootPullZstd(t *testing.T) {
	t.Parallel()
	plain := tarOf(t, file("z", "zstd"), dir("dev"))
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf)
	must.NoError(t, err)
	_, err = w.Write(plain)
	must.NoError(t, errors.Join(err, w.Close()))
	h := serve(t, nil)
	img, err := mutate.Append(imageOf(t, v1.Config{}), mutate.Addendum{
		Layer: zstdLayer{Layer: layerOf(t, plain), body: buf.Bytes()}, MediaType: types.OCILayerZStd,
	})
	must.NoError(t, err)
	ref := h.push(t, "app:zstd", img)
	s := open(t, Options{}, h)
	got, err := s.Pull(within(t), PullRequest{Ref: ref})
	must.NoError(t, err)
	content, err := os.ReadFile(s.path("layers", hexOf(got.Layers[0]), "fs/z"))
	must.NoError(t, err)
	must.Eq(t, "zstd", string(content))
}

func TestRootPullFromTheDisk(t *testing.T) {
	t.Parallel()
	task := t.TempDir()
	other := t.TempDir()
	writeArchives(t, task)
	must.NoError(t, os.Symlink(filepath.Join(task, "docker.tar"), filepath.Join(other, "out.tar")))
	s := open(t, Options{LocalDirs: []string{task}})
	for _, tc := range []struct{ ref, dir, words string }{
		{"oci:layout", task, ""},
		{"oci:" + task + "/layout", "", ""},
		{"oci-archive:layout.tar", task, ""},
		{"docker-archive:docker.tar", task, ""},
		{"docker-archive:" + task + "/docker.tar:app:v1", "", ""},
		{"docker-archive:docker.tar:app:v2", task, `no image "app:v2"`},
		{"oci:layout:latest", task, `no image "latest"`},
		{"oci:layout", "", "needs a task directory"},
		{"oci:../layout", task, "escapes"},
		{"docker-archive:out.tar", other, "escapes"},
		{"docker-archive:/etc/passwd", task, "in none of the driver's image directories"},
		{"oci-archive:layout/index.json", task, "not a valid image archive"},
		{"oci-archive:nothing.tar", task, "no such file"},
		{"oci:", task, "no path"},
	} {
		t.Run(tc.ref, func(t *testing.T) {
			t.Parallel()
			img, err := s.Pull(within(t), PullRequest{Ref: tc.ref, Dir: tc.dir})
			if tc.words != "" {
				must.ErrorContains(t, err, tc.words)
				must.False(t, IsRecoverable(err), must.Sprint(err))
				return
			}
			must.NoError(t, err)
			must.Eq(t, "7:8", img.Config.User)
			must.Eq(t, 2, len(img.Layers))
		})
	}
}

func TestRootPullUsesMirrorsAndCredentials(t *testing.T) {
	t.Parallel()
	basic := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	var closed atomic.Bool
	h := serve(t, func(next http.Handler) http.Handler {
		locked := basic(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if closed.Load() {
				locked.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref := h.push(t, "app:v1", simple(t))
	h.push(t, "cache/app:v1", simple(t))
	h.push(t, "cache/library/app:v1", simple(t))
	closed.Store(true)
	auth := filepath.Join(t.TempDir(), "config.json")
	must.NoError(t, os.WriteFile(auth, fmt.Appendf(nil, `{"auths":{%q:{"username":"user","password":"secret"}}}`, h.addr), 0o600))
	for _, tc := range []struct {
		name, ref, user, password string
		opts                      Options
		ok                        bool
	}{
		{name: "none", ref: ref},
		{name: "static", ref: ref, user: "user", password: "secret", ok: true},
		{name: "wrong", ref: ref, user: "user", password: "wrong"},
		{name: "file", ref: ref, opts: Options{AuthFile: auth}, ok: true},
		{name: "no file", ref: ref, opts: Options{AuthFile: auth + ".missing"}},
		{
			name: "mirror", ref: "registry.example/app:v1", ok: true,
			opts: Options{AuthFile: auth, Mirrors: map[string][]string{"registry.example": {"127.0.0.1:1", h.addr + "/cache"}}},
		},
		{
			name: "mirror of Docker's", ref: "app:v1", ok: true,
			opts: Options{AuthFile: auth, Mirrors: map[string][]string{"docker.io": {h.addr + "/cache"}}, AllowedRegistries: []string{"docker.io/library/*"}},
		},
		{
			name: "mirror gets no task credentials", ref: "127.0.0.1:1/app:v1", user: "user", password: "secret",
			opts: Options{Mirrors: map[string][]string{"127.0.0.1:1": {h.addr + "/cache"}}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, tc.opts, h)
			_, err := s.Pull(within(t), PullRequest{Ref: tc.ref, Username: tc.user, Password: tc.password})
			must.Eq(t, tc.ok, err == nil, must.Sprint(err))
			if err != nil {
				must.StrNotContains(t, err.Error(), "secret")
			}
		})
	}
}
