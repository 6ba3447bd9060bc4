package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// oneBlob answers every question with the same bytes.
type oneBlob []byte

func (o oneBlob) Manifest(context.Context, string) ([]byte, error) { return o, nil }

func (o oneBlob) Blob(context.Context, string, int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o)), nil
}

// FuzzResolve parses arbitrary manifests, indexes and configs: an error or a plan whose every path and digest is
// valid, never a panic, never without end.
func FuzzResolve(f *testing.F) {
	digest := `"sha256:` + strings.Repeat("0", 64) + `"`
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":`+digest+`,"size":2},"layers":[]}`), []byte(`{"rootfs":{"type":"layers"}}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":`+digest+`,"size":2}]}`), []byte(`{}`))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`),
		[]byte(`{"rootfs":{"type":"layers","diff_ids":[`+digest+`]},"config":{"WorkingDir":"/../x","Env":["A"]}}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		p, err := resolve(t.Context(), oneBlob(manifest), "sha256:x", manifest, 0)
		if err == nil {
			for _, l := range p.layers {
				must.True(t, validDigest(l.want.DiffID) && validDigest(l.want.Digest) && l.want.Size >= 0)
			}
		}
		c, err := parseConfig(config)
		if err == nil {
			must.True(t, c.Config.WorkingDir == "" || c.Config.WorkingDir[0] == '/')
			must.StrNotContains(t, c.Config.WorkingDir+"/", "/../")
		} else {
			must.True(t, errors.Is(err, ErrHostile) || errors.Is(err, ErrPlatform))
		}
	})
}

// FuzzReference parses arbitrary references and globs: an error, or something whose registry, repository and path are
// what they seem, and whose glob does not match by accident.
func FuzzReference(f *testing.F) {
	for _, ref := range []string{
		"app", "registry.example:5000/team/app:v1", "app@sha256:" + strings.Repeat("0", 64), "oci:../x:tag", "oci-archive:/srv/a.tar",
		"docker-archive:a.tar:app:v1", "[::1]:5000/app", "a//b", "http://a/b", "A/B:C", "oci:\x00", "user:pw@host/app", "a/../b:c",
	} {
		f.Add(ref, "registry.example/**")
	}
	f.Add("registry.example.evil/app", "registry.example*")
	s, err := Open(f.TempDir(), Options{})
	must.NoError(f, err)
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, text, glob string) {
		r, err := s.parse(text)
		if err != nil {
			must.True(t, errors.Is(err, errBadRef) || errors.Is(err, ErrNotAllowed))
			return
		}
		host, full := r.subject()
		if r.remote == nil {
			must.StrNotContains(t, r.file, "\x00")
			_, _, err = s.localRoot(r, "")
			must.ErrorIs(t, err, ErrNotAllowed)
		} else {
			must.StrNotContains(t, "/"+r.remote.Context().RepositoryStr()+"/", "/../")
			must.StrNotContains(t, host, "@")
		}
		if r.covered(glob) && !strings.ContainsAny(glob, `*?[\`) {
			must.SliceContains(t, []string{host, full, strings.TrimPrefix(host, "index."), strings.TrimPrefix(full, "index.")}, glob)
		}
	})
}
