package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pangaea/e2e/devpool"
)

// patience is how long anything may take: far longer than on the slowest machine, for it ends a test that would never end.
const patience = 5 * time.Minute

// shared is the pool that all tests run on; TestMain owns it.
var shared *devpool.Pool

func TestMain(m *testing.M) {
	os.Exit(runOnPool(m))
}

func runOnPool(m *testing.M) int {
	ctx := context.Background()
	root, err := filepath.Abs("..")
	if err != nil {
		return fail(err)
	}
	bin := os.Getenv("PANGAEA_BIN")
	if bin == "" {
		bin = filepath.Join(root, "bin")
	}
	tools, err := devpool.FindTools(bin)
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "pool-")
	if err != nil {
		return fail(err)
	}
	shared, err = devpool.Start(ctx, devpool.Config{
		Root: root, Dir: dir, Tools: tools, Members: devpool.Countries(), Progress: os.Stderr,
	})
	if err != nil {
		return fail(err)
	}
	status := m.Run()
	before := time.Now()
	err = shared.Stop(ctx)
	if err != nil {
		return fail(fmt.Errorf("the pool did not go down cleanly: %w", err))
	}
	fmt.Fprintf(os.Stderr, "==> the pool went down in %s\n", time.Since(before).Round(time.Millisecond))
	leftovers := devpool.Leftovers(dir)
	if len(leftovers) > 0 {
		return fail(fmt.Errorf("the pool left behind: %v", leftovers))
	}
	if status == 0 {
		_ = os.RemoveAll(dir)
	}
	return status
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}
