package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// The kinds of failure that a caller treats differently.
var (
	ErrNotFound     = errors.New("not found")
	ErrUnauthorized = errors.New("access denied")
	ErrPlainHTTP    = errors.New("plain HTTP refused")
	ErrPrivate      = errors.New("the registry, or where it leads, is at an address that is not public")
	ErrCertificate  = errors.New("the registry's certificate cannot be verified")
	ErrThrottled    = errors.New("the registry has had too many requests")
	ErrCorrupt      = errors.New("content is not what its digest promises")
	ErrTooLarge     = errors.New("answer too large")
	ErrStalled      = errors.New("no data arrived in time")
)

// IsFatal tells whether another try would fail alike. Everything else a registry or the network does
// may pass: time-outs, resets, 429 and 5xx.
func IsFatal(err error) bool {
	for _, e := range []error{ErrNotFound, ErrUnauthorized, ErrPlainHTTP, ErrPrivate, ErrCertificate, ErrCorrupt, ErrTooLarge} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// classify turns what the transport returned into one of the kinds where it can.
func classify(err error) error {
	var te *transport.Error
	var ce *tls.CertificateVerificationError
	var ne net.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPrivate):
		return ErrPrivate // and not which address: a stranger learns nothing about the host's network
	case errors.As(err, &ce):
		return fmt.Errorf("%w: %w", ErrCertificate, brief{ce})
	case errors.Is(err, ErrPlainHTTP):
		return ErrPlainHTTP
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.DeadlineExceeded):
		// The latter where the library has two errors, of which only the first is looked at above: what the registry
		// answered over TLS, which it may not speak, is not the reason.
		return ErrStalled
	case !errors.As(err, &te):
		return brief{scrub(err)}
	case te.StatusCode == http.StatusNotFound, te.StatusCode == http.StatusMethodNotAllowed:
		return fmt.Errorf("%w (HTTP %d)", ErrNotFound, te.StatusCode)
	case te.StatusCode == http.StatusUnauthorized, te.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w (HTTP %d)", ErrUnauthorized, te.StatusCode)
	case te.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w (HTTP 429)", ErrThrottled)
	}
	// The library's text may quote the answer's body, which a stranger wrote; the status is enough.
	return fmt.Errorf("the registry answered HTTP %d", te.StatusCode)
}

// brief is an error of a library in one line of bounded length. What follows may be a quotation of what a stranger,
// or a token server with a fresh token, has answered.
type brief struct{ error }

func (b brief) Error() string {
	line, _, _ := strings.Cut(b.error.Error(), "\n")
	return printable(line)
}

func (b brief) Unwrap() error { return b.error }

func printable(s string) string { return strings.ToValidUTF8(s[:min(len(s), 300)], "?") }

// scrub takes the URLs out of a client's error: after a redirect one may hold a signature that is as good as a
// password.
func scrub(err error) error {
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	return err
}

// cause prefers the reason for which a context was cancelled over the transport's "context canceled".
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
