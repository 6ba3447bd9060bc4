// Package leaktest ends a package's tests with a look for goroutines that they left.
package leaktest

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// soon is how long goroutines may take to end that were told to: far longer than on the slowest machine.
const soon = 3 * time.Minute

// Main runs the tests and exits. The options say which goroutines may be left.
func Main(m *testing.M, options ...goleak.Option) {
	goleak.VerifyTestMain(patient{m, options}, options...)
}

// patient waits longer than goleak by itself, whose half second is short on a busy machine.
type patient struct {
	tests   *testing.M
	options []goleak.Option
}

// Run is for goleak.
func (p patient) Run() int {
	code := p.tests.Run()
	for deadline := time.Now().Add(soon); code == 0 && goleak.Find(p.options...) != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	return code
}
