//go:build faults

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pangaea/device"
	"pangaea/driver"
	"pangaea/e2e/hostnet"
	"pangaea/e2e/node"
	"pangaea/e2e/nvmlsim"
)

// gpus is how many the node has: one for each cell that runs at the same time.
const gpus = 32

var (
	// shared is the node of all tests; TestMain owns it.
	shared *node.Node
	// programs is the directory of the test build.
	programs string
)

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "pangaea-driver":
		driver.Serve()
	case "pangaea-device":
		device.Serve()
	default:
		os.Exit(hostnet.Run(func() int { return run(m) }))
	}
}

func run(m *testing.M) int {
	var err error
	programs, err = os.MkdirTemp("/var/tmp", "pangaea-faults-")
	if err == nil {
		defer os.RemoveAll(programs)
		err = build(programs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return node.Main(m, node.Options{
		Bin: programs, Programs: []string{"witness"}, GPUs: nvmlsim.Host("faults", nvmlsim.L4(), gpus),
		Egress: "disabled = false", Runsc: true,
		// Nomad allows a task 30 s for its end unless its client says otherwise. A task that is being stopped waits here until
		// all others are in their phases too.
		Driver: "allow_volumes = true", Client: `client { max_kill_timeout = "30m" }`,
	}, func(n *node.Node) { shared = n })
}

// build makes the programs with failpoints. This program is the plugin.
func build(dir string) error {
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "pangaea"))
	}
	return errors.Join(err,
		goBuild("0", filepath.Join(dir, "pangaea-shim"), "faults", "pangaea/driver/shim"),
		goBuild("1", filepath.Join(dir, "pangaea-runtime"), "faults seccomp", "pangaea/driver/runtime"))
}

func goBuild(cgo, to, tags, pkg string, flags ...string) error {
	args := append([]string{"build", "-tags", tags, "-o", to}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// patience is how long anything may take: long, for it only ends a test that would never end.
const patience = 5 * time.Minute

func patiently(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patience)
}

// stopTime is how long a stopped process stays stopped. FAULTS_STOP=30s is the whole matrix's.
func stopTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("FAULTS_STOP")
	if text == "" {
		return time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal("FAULTS_STOP must be a duration:", err)
	}
	return d
}
