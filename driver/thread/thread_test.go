package thread

import (
	"os"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// The first thread can't be thrown away: left in a task's network it would keep that alive.
func TestThrowawayThreadIsNeverTheFirst(t *testing.T) {
	for range 300 {
		thread := 0
		Throwaway(func() { thread = unix.Gettid() })
		must.NotEq(t, os.Getpid(), thread)
	}
}
