package driver

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// minLibcontainer is the first release that survives an image whose /dev is a symbolic link (CVE-2026-41579) and
// kernels 6.17 to 7.1 on cgroup v2.
const minLibcontainer = "1.5.2"

// runtimeVersion asks the runtime program which libcontainer it is made of, and refuses one with known holes.
func runtimeVersion(ctx context.Context, runtime string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, runtime, "version")
	cmd.Env, cmd.Dir = []string{}, "/"
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s does not run (%w): install it again, or set runtime_path", runtime, err)
	}
	found := regexp.MustCompile(`libcontainer v?([0-9]+\.[0-9]+\.[0-9]+)`).FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s does not tell its libcontainer version: install the one that belongs to this plugin", runtime)
	}
	version := string(found[1])
	if !atLeast(version, minLibcontainer) {
		return "", fmt.Errorf("%s is made of libcontainer %s, which has known holes: install %s or later", runtime, version, minLibcontainer)
	}
	return version, nil
}

// atLeast compares dotted numbers of the same length.
func atLeast(version, floor string) bool {
	have, want := strings.Split(version, "."), strings.Split(floor, ".")
	for i := range want {
		if i >= len(have) {
			return false
		}
		a, errA := strconv.Atoi(have[i])
		b, errB := strconv.Atoi(want[i])
		if errA != nil || errB != nil {
			return false
		}
		if a != b {
			return a > b
		}
	}
	return true
}
