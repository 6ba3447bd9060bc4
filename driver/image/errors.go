package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"pangaea/driver/image/archive"
	"pangaea/driver/image/layer"
	"pangaea/driver/image/registry"
)

// What a pull or a mount may fail with, besides the kinds of the packages below.
var (
	ErrNotPresent = errors.New("image is not in the store")
	ErrNotAllowed = errors.New("image is not allowed on this host")
	ErrHostile    = errors.New("image refused")
	ErrPlatform   = errors.New("image has no variant for this machine")
	ErrUnsigned   = errors.New("image is not signed as this host requires")
	ErrMounted    = errors.New("task already has a root file system")
	errTimeout    = errors.New("pull timed out")
)

// Error is a failed pull, in words for the job's owner.
type Error struct {
	Ref         string
	recoverable bool
	hint        string
	err         error
}

// Error names the image and its registry, the cause and the next step.
func (e *Error) Error() string {
	msg := fmt.Sprintf("cannot pull image %q: %v", e.Ref, e.err)
	if e.hint != "" {
		msg += "; " + e.hint
	}
	return msg
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

// Recoverable tells whether the same pull may succeed later.
func (e *Error) Recoverable() bool { return e.recoverable }

// IsRecoverable tells whether what failed with err may succeed later without anybody changing anything.
func IsRecoverable(err error) bool {
	var e *Error
	var full *fullError
	return errors.As(err, &e) && e.recoverable || errors.As(err, &full)
}

// explain makes an Error of what a pull ran into. Faults of the content, the request or the operator's rules
// are fatal, all others may pass.
func explain(ref string, err error) error {
	var done *Error
	if err == nil || errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	e := &Error{Ref: ref, err: err}
	e.recoverable, e.hint = advise(err)
	return e
}

func advise(err error) (recoverable bool, hint string) {
	for _, a := range advices() {
		for _, kind := range a.kinds {
			if errors.Is(err, kind) {
				return a.recoverable, a.hint
			}
		}
	}
	return true, "check that this host reaches the registry"
}

type advice struct {
	kinds       []error
	recoverable bool
	hint        string
}

func advices() []advice {
	return []advice{
		{[]error{registry.ErrNotFound}, false, "check the image's name and tag, and whether it needs credentials"},
		{[]error{registry.ErrUnauthorized}, false, "set the task's auth block, or add the registry to the driver's auth config"},
		{
			[]error{registry.ErrPlainHTTP},
			false,
			"serve the registry over HTTPS, or let the operator add it to the driver's insecure_registries",
		},
		{
			[]error{registry.ErrPrivate},
			false,
			"use a public registry, or let the operator name this one in the driver's allowed_registries, insecure_registries or a mirror block",
		},
		{[]error{registry.ErrCertificate}, false, "have the registry renew it, or its authority's certificate installed on this host"},
		{[]error{registry.ErrThrottled}, true, "wait, use credentials with a higher limit, or let the operator add a mirror"},
		{[]error{layer.ErrTooLarge, registry.ErrTooLarge}, false, "use a smaller image, or let the operator raise the driver's limit"},
		{
			[]error{layer.ErrCorrupt, registry.ErrCorrupt, archive.ErrInvalid},
			false,
			"push the image again; what is there now is not what its digests promise",
		},
		{[]error{layer.ErrHostile, ErrHostile}, false, "rebuild the image without it"},
		{[]error{ErrPlatform}, false, "build the image for this machine's architecture"},
		{[]error{ErrNotPresent}, false, `set image_pull_policy = "missing" or pull it beforehand`},
		{[]error{ErrNotAllowed}, false, "ask the host's operator to allow it"},
		{[]error{ErrUnsigned}, false, "sign it with a key that the host's operator trusts, or ask them for a rule that covers it"},
		{[]error{errBadRef}, false, "write name:tag, name@sha256:..., oci:path, oci-archive:path or docker-archive:path"},
		{[]error{unix.ENOSPC, unix.EDQUOT}, true, ""}, // a fullError, which says what to do itself
		{[]error{errLocal}, false, "check the path, which may not lead out of its directory"},
		{[]error{registry.ErrStalled, errTimeout}, true, "the registry or the network is too slow; the driver's pull_timeout may be raised"},
	}
}

// errBadRef marks a reference that cannot be parsed.
var errBadRef = errors.New("cannot parse image reference")

// errLocal marks an image on the disk that cannot be opened.
var errLocal = errors.New("cannot read it from the disk")

// printable bounds what a job's text does to a log line.
func printable(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), 300)], "?")
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
