package state

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/consul/api"
)

// What can go wrong, for errors.Is. The text around them is fit to show to a user.
var (
	ErrPermission  = errors.New("permission denied")
	ErrConflict    = errors.New("changed by someone else meanwhile")
	ErrUnavailable = errors.New("cannot reach Consul")
	ErrNotFound    = errors.New("not found")
	ErrTooLarge    = errors.New("too large")
	ErrFenced      = errors.New("no longer the leader")
	ErrInvalid     = errors.New("invalid name")
)

// translate gives an error of Consul's client its sentinel. what says what was being done, as in "read job x".
func (s *Store) translate(what string, err error) error {
	if err == nil {
		return nil
	}
	var status api.StatusError
	var network net.Error
	var request *url.Error
	switch {
	case errors.As(err, &status) && status.Code == http.StatusForbidden, strings.Contains(err.Error(), "Permission denied"),
		strings.Contains(err.Error(), "ACL not found"):
		return fmt.Errorf("cannot %s: %w by Consul", what, ErrPermission)
	case errors.As(err, &status) && status.Code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("cannot %s: %w for Consul", what, ErrTooLarge)
	case errors.As(err, &request), errors.As(err, &network):
		return fmt.Errorf("cannot %s: %w at %s: %w: start it or correct consul.address", what, ErrUnavailable, s.address, err)
	case errors.As(err, &status) && status.Code >= http.StatusInternalServerError, strings.Contains(err.Error(), "No cluster leader"):
		return fmt.Errorf("cannot %s: %w's servers through %s: %w: wait for them to elect a leader", what, ErrUnavailable, s.address, err)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// txnError gives a rolled back transaction its sentinel. fenced tells that operation 0 checked the leader's session.
func txnError(what string, errs api.TxnErrors, fenced bool) error {
	kind, texts := ErrConflict, make([]string, 0, len(errs))
	for _, e := range errs {
		texts = append(texts, e.What)
		if strings.Contains(e.What, "Permission denied") {
			return fmt.Errorf("cannot %s: %w by Consul", what, ErrPermission)
		}
		if fenced && e.OpIndex == 0 {
			kind = ErrFenced
		}
	}
	return fmt.Errorf("cannot %s: %w (%s)", what, kind, strings.Join(texts, "; "))
}
