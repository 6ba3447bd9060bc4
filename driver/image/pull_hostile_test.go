package image

import (
	"encoding/json"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/shoenig/test/must"
)

func TestRootPullRefusesHostileImages(t *testing.T) {
	t.Parallel()
	good := tarOf(t, file("a", "b"))
	for _, tc := range []struct {
		name   string
		config v1.Config
		layers [][]byte
		words  string
	}{
		{"relative work dir", v1.Config{WorkingDir: "srv"}, [][]byte{good}, "working directory"},
		{"unclean work dir", v1.Config{WorkingDir: "/a/../../b"}, [][]byte{good}, "working directory"},
		{"leaked descriptor", v1.Config{WorkingDir: "/proc/self/fd/7"}, [][]byte{good}, "working directory"},
		{"nameless variable", v1.Config{Env: []string{"=x"}}, [][]byte{good}, "environment"},
		{"zero byte", v1.Config{Cmd: []string{"a\x00b"}}, [][]byte{good}, "zero byte"},
		{"dev is a link", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc"))}, "/dev is not a directory"},
		{"proc is a file", v1.Config{}, [][]byte{tarOf(t, file("proc", ""))}, "/proc is not a directory"},
		{"sys becomes a link", v1.Config{}, [][]byte{tarOf(t, dir("sys")), tarOf(t, link("sys", "tmp"))}, "/sys is not a directory"},
		{"escape", v1.Config{}, [][]byte{tarOf(t, file("../x", "y"))}, "'..'"},
		{"dev is put right", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc")), tarOf(t, dir("dev"))}, ""},
		{"dev is removed", v1.Config{}, [][]byte{tarOf(t, link("dev", "/etc")), tarOf(t, file(".wh.dev", ""))}, ""},
		{"layer repeats", v1.Config{}, [][]byte{good, tarOf(t, file("c", "d")), good}, ""},
		{"no layers", v1.Config{}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, nil)
			ref := h.push(t, "app:v1", imageOf(t, tc.config, tc.layers...))
			s := open(t, Options{}, h)
			img, err := s.Pull(within(t), PullRequest{Ref: ref})
			if tc.words == "" {
				must.NoError(t, err)
				_, err = s.Mount(t.Context(), MountRequest{ID: "t", Image: img, HostUID: base, HostGID: base, IDCount: 65536})
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.words)
			must.False(t, IsRecoverable(err))
			assertNothingHalfMade(t, s)
		})
	}
}

// TestRootPullRefusesHostileManifests pushes documents that no library would write.
func TestRootPullRefusesHostileManifests(t *testing.T) {
	t.Parallel()
	img, err := random.Image(100, 1)
	must.NoError(t, err)
	raw, err := img.RawManifest()
	must.NoError(t, err)
	edit := func(f func(m map[string]any)) []byte {
		var m map[string]any
		must.NoError(t, json.Unmarshal(raw, &m))
		f(m)
		out, err := json.Marshal(m)
		must.NoError(t, err)
		return out
	}
	layer0 := func(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }
	for _, tc := range []struct {
		name, words string
		body        []byte
	}{
		{"two kinds at once", "neither an image nor an index", edit(func(m map[string]any) { m["mediaType"] = types.OCIImageIndex })},
		{"schema 1", "neither an image nor an index", edit(func(m map[string]any) { m["schemaVersion"] = 1 })},
		{"unknown layer type", "is of type", edit(func(m map[string]any) { layer0(m)["mediaType"] = "application/x-sh" })},
		{"foreign layer", "is of type", edit(func(m map[string]any) { layer0(m)["mediaType"] = types.DockerForeignLayer })},
		{"digest as a path", "non-hex", edit(func(m map[string]any) { layer0(m)["digest"] = "sha256:../../../../etc/passwd" })},
		{"more layers than diff IDs", "its config 1", edit(func(m map[string]any) { m["layers"] = append(m["layers"].([]any), layer0(m)) })},
		{"negative size", "no valid digest and size", edit(func(m map[string]any) { layer0(m)["size"] = -1 })},
		{"wrong size", "cannot read blob", edit(func(m map[string]any) { layer0(m)["size"] = 1 << 20 })},
		{"huge config", "no valid digest and size", edit(func(m map[string]any) { m["config"].(map[string]any)["size"] = 1 << 40 })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := serve(t, fail("/manifests/v1", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
				_, _ = w.Write(tc.body)
			}))
			ref := h.push(t, "app:v1", img)
			s := open(t, Options{}, h)
			_, err := s.Pull(within(t), PullRequest{Ref: ref})
			must.ErrorContains(t, err, tc.words)
			assertNothingHalfMade(t, s)
		})
	}
}
