package state_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), // idle keep-alive connections of Consul's client
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}
