package bench

import (
	"context"
	"fmt"
	"path/filepath"
)

// startDocker starts Docker, which answers registries on loopback without a certificate.
func startDocker(ctx context.Context, bin, program string) (*engine, error) {
	runsc, err := filepath.Abs(filepath.Join(bin, "runsc"))
	if err != nil {
		return nil, fmt.Errorf("cannot find runsc: %w", err)
	}
	e := &engine{name: "docker", leaves: []string{
		cgroups + "*/docker", "/etc/docker/key.json", "/etc/docker", "/run/docker/plugins", "/run/docker",
	}}
	return e, e.start(ctx, bin, program, func(dir string) []string {
		return []string{
			"--host", "unix://" + filepath.Join(dir, "socket"), "--data-root", filepath.Join(dir, "data"),
			"--exec-root", filepath.Join(dir, "run"), "--pidfile", filepath.Join(dir, "pid"),
			"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
			"--add-runtime", "runsc=" + runsc,
		}
	})
}

// dockerConfig is what Nomad has to know of it.
func dockerConfig(e *engine) string {
	return fmt.Sprintf(`
plugin "docker" {
  config {
    endpoint       = %q
    allow_runtimes = ["runc", "runsc"]
    gc {
      image = false
    }
  }
}
`, "unix://"+e.socket())
}
