package statetest

import (
	"net"
	"testing"

	"github.com/shoenig/test/must"
)

// TestFreePorts checks that ports asked for apart are never the same, long before anybody listens on the first, that
// they follow one another, also around one that is taken and past the block's end, and that no other process has them.
func TestFreePorts(t *testing.T) {
	seen := map[int]bool{}
	for range perBlock / 5 {
		ports := FreePorts(t, 4)
		for i, port := range ports {
			must.Eq(t, ports[0]+i, port)
			must.False(t, seen[port], must.Sprintf("%d was given twice", port))
			seen[port] = true
		}
	}
	FreePorts(t, 30) // past the end
	next := FreePorts(t, 1)[0]
	taken, err := net.Listen("tcp", address(next+2))
	must.NoError(t, err)
	defer func() { must.NoError(t, taken.Close()) }()
	must.Eq(t, next+3, FreePorts(t, 2)[0])

	bases := map[int]bool{own.base: true}
	for range blocks / 2 {
		var other block // as another process has one
		base := other.take(t, 1)[0] / perBlock * perBlock
		defer func() { must.NoError(t, other.lock.Close()) }()
		must.False(t, bases[base], must.Sprintf("%d is the base of two blocks", base))
		bases[base] = true
	}
}
