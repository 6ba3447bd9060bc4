package layer

import (
	"errors"
	"fmt"
)

// The kinds of failure that a layer's content, not the network or the disk, is to blame for.
var (
	// ErrHostile means that an entry tried something that no honest layer does.
	ErrHostile = errors.New("layer refused")
	// ErrTooLarge means that the layer passes a limit on bytes, entries, depth or ratio.
	ErrTooLarge = errors.New("layer too large")
	// ErrCorrupt means that the stream is not what its digest, size or format promised.
	ErrCorrupt = errors.New("layer corrupt")
)

// IsContent tells whether the layer itself is at fault, so that another try would fail alike.
func IsContent(err error) bool {
	return errors.Is(err, ErrHostile) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrCorrupt)
}

func hostile(entry, why string) error {
	return fmt.Errorf("%w: entry %.200q %s", ErrHostile, entry, why)
}
