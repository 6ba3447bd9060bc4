package state_test

import (
	"testing"

	"go.uber.org/goleak"

	"pangaea/federation/leaktest"
)

func TestMain(m *testing.M) {
	leaktest.Main(m,
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), // idle keep-alive connections of Consul's client
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}
