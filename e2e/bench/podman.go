package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// podmanDriver is Nomad's plugin for Podman, see e2e/tools.
const podmanDriver = "nomad-driver-podman"

// startPodman starts Podman's service, which reads and writes nothing of the machine's own.
func startPodman(ctx context.Context, bin, program string) (*engine, error) {
	e := &engine{name: "podman", leaves: []string{cgroups + "*/libpod_parent", "/dev/shm/libpod_lock"}}
	conmon, runc := findPeer(bin, "conmon"), findPeer(bin, "runc")
	if conmon == "" || runc == "" {
		return e, errors.New("cannot start podman: it has no conmon or no runc; make peers PEERS=podman gets them")
	}
	e.prepare = func(dir string) ([]string, error) { return configurePodman(dir, conmon, runc) }
	return e, e.start(ctx, bin, program, func(dir string) []string {
		return []string{
			"--root", filepath.Join(dir, "data"), "--runroot", filepath.Join(dir, "run"),
			"system", "service", "--time=0", "unix://" + filepath.Join(dir, "socket"),
		}
	})
}

// configurePodman writes its configuration and returns where it finds that.
func configurePodman(dir, conmon, runc string) ([]string, error) {
	home := filepath.Join(dir, "home")
	policy := filepath.Join(home, ".config/containers/policy.json")
	containers, registries := filepath.Join(dir, "containers.conf"), filepath.Join(dir, "registries.conf")
	err := os.MkdirAll(filepath.Dir(policy), 0o700)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "tmp"), 0o700)
	}
	for path, text := range map[string]string{
		// Its default ulimits need more privilege than root has in some virtual machines.
		containers: fmt.Sprintf(`
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = [%q]
runtime = "runc"
tmp_dir = %q
[engine.runtimes]
runc = [%q]
[containers]
default_ulimits = []
[network]
network_config_dir = %q
`, conmon, filepath.Join(dir, "tmp"), runc, filepath.Join(dir, "net")),
		registries: "[[registry]]\nprefix = \"127.0.0.1\"\nlocation = \"127.0.0.1\"\ninsecure = true\n",
		policy:     `{"default": [{"type": "insecureAcceptAnything"}]}`,
	} {
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
	}
	return []string{"HOME=" + home, "CONTAINERS_CONF=" + containers, "CONTAINERS_REGISTRIES_CONF=" + registries}, err
}

// podmanConfig is what Nomad has to know of it.
func podmanConfig(e *engine) string {
	return fmt.Sprintf("\nplugin %q {\n  config {\n    socket_path = %q\n  }\n}\n", podmanDriver, "unix://"+e.socket())
}

// podman is HashiCorp's Podman driver.
func podman() driver {
	return driver{
		name: "podman", busybox: "/usr/bin/busybox", fromImage: true, config: map[string]any{"network_mode": "host"},
		helpers: []string{"conmon"}, daemons: []string{"podman", podmanDriver}, foreign: true,
	}
}
