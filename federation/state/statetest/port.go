package statetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
)

// Ports outside of Nomad's dynamic range (20000 to 32000) and of Linux's ephemeral one (from 32768), in blocks of
// which each test process has one to itself, as Consul's own tests have it (consul/sdk/freeport). A process holds its
// block by listening on the block's first port.
const (
	firstPort = 15000
	perBlock  = 100
	blocks    = 49
)

// block is the ports of one process.
type block struct {
	sync.Mutex
	lock net.Listener
	base int
	next int // above base, of the port to give out next
}

var own block

// FreePorts returns consecutive ports, count of at most 50, that nobody listens on, that no other process is given,
// and that this process is not given again before all others of its block.
func FreePorts(t *testing.T, count int) []int {
	t.Helper()
	return own.take(t, count)
}

func (b *block) take(t *testing.T, count int) []int {
	t.Helper()
	b.Lock()
	defer b.Unlock()
	for try := 0; b.lock == nil; try++ {
		if try == 1000 {
			t.Fatalf("no block of %d ports is free between %d and %d", perBlock, firstPort, firstPort+blocks*perBlock)
		}
		b.base = firstPort + perBlock*rand.IntN(blocks) //nolint:gosec // a port need not be secret
		b.lock, _ = net.Listen("tcp", address(b.base))
	}
	var ports []int
	for try := 0; len(ports) < count; try++ {
		if try == 2*perBlock {
			t.Fatalf("no %d consecutive ports are free from %d", count, b.base)
		}
		b.next = b.next%(perBlock-1) + 1
		if b.next == 1 {
			ports = nil
		}
		if !isFree(b.base + b.next) {
			ports = nil
			continue
		}
		ports = append(ports, b.base+b.next)
	}
	return ports
}

// Loopback is an address of this machine to itself that only this process uses: there, a port that was given back is not
// another's a moment later.
func Loopback() string {
	pid := os.Getpid() // of 22 bits at most
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>15, pid>>7&255, 1+pid&127)
}

func isFree(port int) bool {
	listener, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
