package registry

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/shoenig/test/must"
)

// What is pushed can be pulled again, by its digest, with the program as its entrypoint.
func TestPush(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hello")
	must.NoError(t, os.WriteFile(program, []byte("#!"), 0o600))
	image, err := FromBinary(program)
	must.NoError(t, err)
	registry, err := Start("127.0.0.1:0")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, registry.Close()) })
	digest, err := registry.Push(t.Context(), "hello:1", image)
	must.NoError(t, err)

	ref, err := name.ParseReference(registry.Address()+"/hello@"+digest, name.Insecure)
	must.NoError(t, err)
	pulled, err := remote.Image(ref)
	must.NoError(t, err)
	config, err := pulled.ConfigFile()
	must.NoError(t, err)
	must.Eq(t, []string{"/usr/bin/hello"}, config.Config.Entrypoint)
	must.Len(t, 1, config.RootFS.DiffIDs)
}

func TestPortTaken(t *testing.T) {
	first, err := Start("127.0.0.1:0")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, first.Close()) })
	_, err = Start(first.Address())
	must.ErrorContains(t, err, "cannot start the registry")
}
