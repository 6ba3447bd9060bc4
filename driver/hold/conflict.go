package hold

import (
	"errors"
	"fmt"
)

// ErrNamespace is a share of a GPU of which a task of another namespace has a share.
var ErrNamespace = errors.New("a task of another namespace has a share of it")

// ErrTaken is a device that another task has.
var ErrTaken = errors.New("another task of this host has it")

// beside tells why the hold cannot be beside another, nil when it can. It does not tell whose that one is: a tenant reads
// the words.
func (h *Hold) beside(other Hold, across bool) error {
	for i, uuid := range h.UUIDs {
		for j, theirs := range other.UUIDs {
			if uuid != theirs {
				continue
			}
			shares := h.Devices[i] != uuid && other.Devices[j] != theirs
			switch {
			case !shares || h.Devices[i] == other.Devices[j]:
				return fmt.Errorf("cannot have GPU %s: %w", h.Devices[i], ErrTaken)
			case h.Namespace != other.Namespace && !across:
				return fmt.Errorf("cannot share GPU %s: %w", uuid, ErrNamespace)
			}
		}
	}
	return nil
}
