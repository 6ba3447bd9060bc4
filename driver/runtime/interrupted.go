package main

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// interrupted marks a failure that has its cause outside the sandbox: its init was killed before it could say what it
// finds wrong with the task. The same start may well succeed when it is tried again.
type interrupted struct{ error }

func (i interrupted) Unwrap() error { return i.error }

// judge marks an error of libcontainer's while it starts a sandbox. Libcontainer gives these errors no types: what the
// init itself reports has this prefix, and an init that died in silence is missed by these texts or by the socket.
func judge(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	says := func(part string) bool { return strings.Contains(text, part) }
	silent := says("procReady not received") || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	// A limit that is too low for the init itself stays too low.
	if says("OOM-killed") || says("error during container init") && !silent {
		return err
	}
	return interrupted{err}
}

// word is what a report of a failure begins with.
func word(err error) string {
	var i interrupted
	if errors.As(err, &i) {
		return "retry"
	}
	return "error"
}
