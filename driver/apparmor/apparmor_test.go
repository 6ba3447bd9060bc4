package apparmor

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

// host is a machine with AppArmor and a parser that notes what it is told.
func host(t *testing.T, parser string) Host {
	t.Helper()
	h := Host{Root: t.TempDir()}
	write(t, h, enabledFile, "Y\n", 0o644)
	write(t, h, profilesFile, "docker-default (enforce)\nmy own (enforce)\nnoted (complain)\nlast (kill)\nodd\n", 0o644)
	if parser != "" {
		write(t, h, "/sbin/apparmor_parser", "#!/bin/sh\n"+parser, 0o755)
	}
	return h
}

func write(t *testing.T, h Host, name, text string, mode os.FileMode) {
	t.Helper()
	must.NoError(t, os.MkdirAll(filepath.Dir(h.path(name)), 0o755))
	must.NoError(t, os.WriteFile(h.path(name), []byte(text), mode))
}

func TestEnabled(t *testing.T) {
	h := host(t, "")
	must.True(t, h.Enabled())
	write(t, h, enabledFile, "N\n", 0o644)
	must.False(t, h.Enabled())
	must.False(t, Host{Root: t.TempDir()}.Enabled())
}

func TestLoaded(t *testing.T) {
	h := host(t, "")
	for name, want := range map[string]bool{
		"docker-default": true, "my own": true, "last": true, "noted": false, "odd": false, "docker": false, "": false, OwnProfile: false,
	} {
		loaded, err := h.Loaded(name)
		must.NoError(t, err)
		must.Eq(t, want, loaded, must.Sprint(name))
	}
	_, err := Host{Root: t.TempDir()}.Loaded("x")
	must.ErrorContains(t, err, "mount -t securityfs")
}

func TestLoad(t *testing.T) {
	out := t.TempDir()
	h := host(t, `echo "$@" >`+out+`/args; cat >`+out+`/text`)
	must.NoError(t, h.CanLoad())
	told := func() string {
		must.NoError(t, h.Load(context.Background()))
		text, err := os.ReadFile(filepath.Join(out, "text"))
		must.NoError(t, err)
		return string(text)
	}
	must.Eq(t, rules, told(), must.Sprint("an old parser has no file of the ABI"))
	write(t, h, abiFile, "", 0o644)
	must.Eq(t, abi+rules, told())
	args, err := os.ReadFile(filepath.Join(out, "args"))
	must.NoError(t, err)
	must.Eq(t, "--replace --skip-cache\n", string(args))

	h = host(t, "echo 'line 3: syntax error' >&2; exit 1")
	must.ErrorContains(t, h.Load(context.Background()), "line 3: syntax error")
	h = host(t, "")
	must.ErrorIs(t, h.CanLoad(), ErrNoParser)
	must.ErrorIs(t, h.Load(context.Background()), ErrNoParser)
	h = host(t, "true")
	must.NoError(t, os.Remove(h.path(profilesFile)))
	must.ErrorContains(t, h.CanLoad(), "securityfs")
}
