//go:build !faults

package failpoint

// Here is a place at which a test build may be held.
func Here(_, _ string) {}
