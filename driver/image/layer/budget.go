package layer

import (
	"fmt"
	"sync/atomic"
)

const (
	// maxDepth bounds how deep a tree may nest; deeper ones only serve to exhaust recursive walkers.
	maxDepth = 256
	// maxPath is PATH_MAX less the terminating zero byte.
	maxPath = 4095
	// A layer may unpack to ratioFloor freely; beyond it, maxRatio times its compressed size. Honest
	// layers stay below 30; gzip's own ceiling is 1032.
	ratioFloor = 256 << 20
	maxRatio   = 200
	// maxKept bounds the bytes that one extraction keeps in memory about directories and whiteouts. Those of an image
	// of 10 GB come to a few MiB.
	maxKept = 64 << 20
)

// Budget is what the layers of one image may take together. Its methods are safe for concurrent use.
type Budget struct {
	bytes, entries atomic.Int64
}

// NewBudget allows so many bytes and so many entries.
func NewBudget(bytes, entries int64) *Budget {
	b := &Budget{}
	b.bytes.Store(bytes)
	b.entries.Store(entries)
	return b
}

// Return gives back what a layer took that is tried again.
func (b *Budget) Return(s Stats) {
	b.bytes.Add(s.Bytes)
	b.entries.Add(s.Entries)
}

func (b *Budget) takeBytes(n int64) error {
	if b.bytes.Add(-n) < 0 {
		return fmt.Errorf("%w: the image unpacks to more bytes than allowed", ErrTooLarge)
	}
	return nil
}

func (b *Budget) takeEntry() error {
	if b.entries.Add(-1) < 0 {
		return fmt.Errorf("%w: the image has more files than allowed", ErrTooLarge)
	}
	return nil
}
