package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pangaea/driver/sandbox"
)

// splitSysctls parts settings of a network that the task joins, which belongs to the host's users and not to the task's,
// from those that the sandbox can write itself.
func splitSysctls(all map[string]string, joined bool) (own, network map[string]string) {
	own, network = map[string]string{}, map[string]string{}
	for key, value := range all {
		key = strings.ReplaceAll(key, "/", ".")
		if joined && strings.HasPrefix(key, "net.") {
			network[key] = value
			continue
		}
		own[key] = value
	}
	return own, network
}

// writeNetworkSysctls sets the group's own network up as the job wants. The calling thread is in it, and sees the
// host's /proc, which no tenant has laid out (CVE-2019-19921).
func writeNetworkSysctls(settings map[string]string) error {
	for key, value := range settings {
		if !sandbox.NamespacedSysctl(key) {
			return fmt.Errorf("cannot set sysctl %q: it is not the group's own but the host's", key)
		}
		place := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
		f, err := os.OpenFile(place, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("cannot set sysctl %q: %w", key, err)
		}
		_, err = f.WriteString(value)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("cannot set sysctl %q to %q: %w", key, value, err)
		}
	}
	return nil
}
