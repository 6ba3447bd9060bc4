package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"github.com/sirupsen/logrus"
)

// All execs of a task write into one log, which must not grow for as long as a health check fails.
func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runtime.log")
	t.Cleanup(func() { logrus.SetOutput(os.Stderr) })
	for _, c := range []struct{ before, most int64 }{{0, 2 * maxMessage}, {maxLog, maxLog + 2*maxMessage}, {maxLog + 1, 2 * maxMessage}} {
		must.NoError(t, os.WriteFile(path, make([]byte, c.before), 0o600))
		must.NoError(t, logTo(path))
		logrus.Error(brief(errors.New(strings.Repeat("no such program ", 1<<16))))
		info, err := os.Stat(path)
		must.NoError(t, err)
		must.Between(t, maxMessage, info.Size(), c.most)
	}
	text, err := os.ReadFile(path)
	must.NoError(t, err)
	must.StrContains(t, string(text), "no such program")
}
