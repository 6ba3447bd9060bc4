package supervisor

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// built holds the programs under test; TestMain sets it once.
var built programs

func TestMain(m *testing.M) {
	if os.Getenv(standInEnv) != "" {
		standIn()
	}
	dir, err := os.MkdirTemp("", "pangaea-programs-")
	if err == nil {
		built, err = buildPrograms(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
