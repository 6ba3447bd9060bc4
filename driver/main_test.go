package driver

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// What all tests share, because it takes seconds to make.
var (
	built   string // where the shim and the runtime lie
	gpuHost *simulated
)

// A test that runs this program again names itself and the programs by these.
const (
	hostTest  = "PANGAEA_DRIVER_TEST"
	hostBuilt = "PANGAEA_DRIVER_PROGRAMS"
)

func TestMain(m *testing.M) {
	if os.Getenv(hostTest) != "" {
		built = os.Getenv(hostBuilt)
		os.Exit(m.Run())
	}
	var err error
	built, err = programs()
	if err == nil {
		gpuHost, err = simulate()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	err = errors.Join(os.RemoveAll(built), os.RemoveAll(gpuHost.dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		// Nomad's harness takes its time to end what it can.
		for range 20 {
			err = goleak.Find(ignored()...)
			if err == nil {
				break
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// ignored are goroutines of Nomad's test harness, which it never ends.
func ignored() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("google.golang.org/grpc.(*Server).Serve"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/go-plugin.(*GRPCBroker).Run"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/nomad/client/logmon.(*TaskLogger).Close"),
	}
}
