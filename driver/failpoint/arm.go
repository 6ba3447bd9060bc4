//go:build faults

package failpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Point is an armed failpoint.
type Point struct {
	armed, taken string
	open         *os.File
}

// Arm sets a failpoint for the next process that passes a place for a task of that name, which has only letters and
// digits.
func Arm(stateDir, task, place string) (*Point, error) {
	armed := filepath.Join(stateDir, "failpoints", task+"."+place)
	p := &Point{armed: armed, taken: armed + ".taken"}
	err := errors.Join(os.RemoveAll(p.taken), os.MkdirAll(armed+".new", 0o700))
	if err == nil {
		err = unix.Mkfifo(filepath.Join(armed+".new", goFIFO), 0o600)
	}
	if err == nil {
		err = os.Rename(armed+".new", armed)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot arm failpoint %s: %w", place, err)
	}
	return p, nil
}

// Wait waits until a process is held and returns its pid.
func (p *Point) Wait(ctx context.Context) (int, error) {
	for {
		text, err := os.ReadFile(filepath.Join(p.taken, pidFile))
		if err == nil {
			return strconv.Atoi(string(text))
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("nobody came to failpoint %s: %w", filepath.Base(p.armed), ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Release lets the held process go on, if it lives, and disarms the point if none came.
func (p *Point) Release() error {
	err := os.RemoveAll(p.armed)
	if err != nil || p.open != nil {
		return err
	}
	// Both ends, and for as long as the test runs: whoever comes to wait later, such as a process that was stopped while
	// it waited, finds its partner there.
	p.open, err = os.OpenFile(filepath.Join(p.taken, goFIFO), os.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nobody came
	}
	return err
}
