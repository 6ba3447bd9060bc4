package device

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// Patience ends once, though what is waited for comes at the same moment and more is waited for then.
func TestPatienceEnds(t *testing.T) {
	for range 100 {
		from, end := make(chan int, 1), make(chan time.Time)
		enough := (<-chan time.Time)(end)
		go func() {
			end <- time.Now() // nobody sends another
			from <- 1
		}()
		for ok := true; ok; {
			_, ok = take(from, &enough)
		}
		_, ok := take(make(chan int), &enough)
		must.False(t, ok)
	}
}
