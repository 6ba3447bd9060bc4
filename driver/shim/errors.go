package main

import "errors"

// Words that a report of a failure begins with.
const (
	wordError = "error"
	// wordRetry says that the same start may well succeed when it is tried again.
	wordRetry = "retry"
)

// errRuntimeDied says that the runtime was killed, or crashed, in the middle of its work.
var errRuntimeDied error = &interrupted{errors.New("the runtime died")}

// errAbandoned says that nobody knows of the task any more who could want it.
var errAbandoned = errors.New("the supervisor died before the task started")

// errRecorded says that another shim has seen the task's end, which stays as that one has told it.
var errRecorded = errors.New("the task's end is recorded")

// interrupted marks a failure that has its cause outside the task: somebody killed a process of its start.
type interrupted struct{ err error }

func (i *interrupted) Error() string { return i.err.Error() }
func (i *interrupted) Unwrap() error { return i.err }

func failureWord(err error) string {
	var i *interrupted
	if errors.As(err, &i) {
		return wordRetry
	}
	return wordError
}

// wrap is fmt.Errorf without fmt.
func wrap(doing string, err error) error { return &failure{doing, err} }

type failure struct {
	doing string
	err   error
}

func (f *failure) Error() string { return "cannot " + f.doing + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }
