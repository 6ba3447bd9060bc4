package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// Only what the sandbox's init itself says against the task is the task's fault.
func TestJudge(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"the program is missing", errors.New(`unable to start container process: error during container init: exec: "/nothing": no such file`), "error"},
		{"the init was killed before it was ready", errors.New("unable to start container process: error during container init: procReady not received"), "retry"},
		{"the init was killed while it read", fmt.Errorf("error during container init: %w", unix.ECONNRESET), "retry"},
		{"the init was killed before it could say a word", errors.New("unable to start container process: can't get final child's PID from pipe: EOF"), "retry"},
		{"the init was killed before the program", errors.New("container process is already dead"), "retry"},
		{"the memory limit is too low", errors.New("container init was OOM-killed (memory limit too low?)"), "error"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { must.Eq(t, tc.want, word(judge(tc.err))) })
	}
	must.NoError(t, judge(nil))
	must.Eq(t, "error", word(errors.New("cannot convert the spec")))
}
