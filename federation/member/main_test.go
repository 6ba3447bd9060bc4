package member

import (
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"pangaea/federation/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		runWorker()
	}
	leaktest.Main(m,
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), // idle keep-alive connections of Nomad's client
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

func itoa(n int) string { return strconv.Itoa(n) }
