package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

const testKey = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA8bLZdZu+C8lci2CLW6IyIvsyM36/zKBfoo9UmDwE7Cc=
-----END PUBLIC KEY-----
`

func TestSignatureRules(t *testing.T) {
	var c Config
	hclutils.NewConfigParser(configSpec()).ParseHCL(t, `config {
		signature {
			images = ["registry.example/open/**"]
			allow_unsigned = true
		}
		signature { keys = ["/nowhere/cosign.pub"] }
	}`, &c)
	s := newSettings(c)
	must.SliceEmpty(t, s.problems)
	_, err := s.signatureRules()
	must.ErrorContains(t, err, "/nowhere/cosign.pub")
	sick := s.fingerprint(t.Context(), good())
	must.Eq(t, drivers.HealthStateUnhealthy, sick.Health)
	must.StrContains(t, sick.HealthDescription, "/nowhere/cosign.pub")

	path := filepath.Join(t.TempDir(), "cosign.pub")
	must.NoError(t, os.WriteFile(path, []byte(testKey), 0o600))
	s.Signatures[1].Keys = []string{path}
	rules, err := s.signatureRules()
	must.NoError(t, err)
	must.Len(t, 2, rules)
	must.True(t, rules[0].AllowUnsigned)
	must.Eq(t, []string{"**"}, rules[1].Images)
	must.Len(t, 1, rules[1].Keys)
	must.Eq(t, drivers.HealthStateHealthy, s.fingerprint(t.Context(), good()).Health)
}

// TestRootSignatureIsDemanded starts an unsigned image, first under a key, then under one that cannot be read.
func TestRootSignatureIsDemanded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cosign.pub")
	must.NoError(t, os.WriteFile(path, []byte(testKey), 0o600))
	w := newWorld(t, func(c *Config) { c.Signatures = []Signature{{Keys: []string{path}}} })
	task := w.prepare(t, JobConfig{Command: "/bin/true"}, false)
	_, _, err := w.harness.StartTask(task)
	must.ErrorContains(t, err, "it carries no signature")
	must.False(t, structs.IsRecoverable(err))
	must.NoError(t, os.Remove(path))
	_, _, err = w.harness.StartTask(task)
	must.ErrorContains(t, err, "cannot check the image's signature")
	must.True(t, structs.IsRecoverable(err))
}
