package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// SourceError wraps what the stream's own Read returned, so that it can be told from a bad format:
// a cut connection may be tried again, a bad checksum not.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }

// Unwrap gives the error of the stream.
func (e *SourceError) Unwrap() error { return e.Err }

// markSource makes every error but io.EOF a SourceError.
type markSource struct{ r io.Reader }

func (m markSource) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		err = &SourceError{Err: err}
	}
	return n, err
}

// content gives every error that neither the stream nor the disk made the kind of a bad layer: the
// decompressors and the tar reader have too many errors of their own to list.
func content(ctx context.Context, err error) error {
	var source *SourceError
	var sys *os.SyscallError
	var file *os.PathError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case IsContent(err), errors.As(err, &source):
		return err
	case errors.As(err, &sys), errors.As(err, &file):
		return pathFault(err)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// pathFault finds the system errors that only a malformed path in the archive can cause.
func pathFault(err error) error {
	for _, e := range []error{
		unix.ELOOP, unix.ENOTDIR, unix.EXDEV, unix.ENAMETOOLONG, unix.EISDIR, unix.EINVAL, unix.EEXIST, unix.ENOENT,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrHostile, err)
		}
	}
	return err
}
