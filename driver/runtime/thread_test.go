package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// What it starts is started on a thread that ends, and its error is told.
func TestInCpusetRunsOnOwnThread(t *testing.T) {
	dir, want := t.TempDir(), errors.New("from there")
	for range 50 {
		thread := 0
		err := inCpuset(dir, func() error { thread = unix.Gettid(); return want })
		must.ErrorIs(t, err, want)
		must.NotEq(t, os.Getpid(), thread)
	}
}

// Whatever can't be put into its cpuset is not started.
func TestInCpusetRefuses(t *testing.T) {
	err := inCpuset(filepath.Join(t.TempDir(), "missing"), func() error { t.Error("started"); return nil })
	must.ErrorIs(t, err, errCpuset)
	must.ErrorIs(t, err, os.ErrNotExist)
}
