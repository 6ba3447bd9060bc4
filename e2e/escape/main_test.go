package escape

import (
	"os"
	"testing"

	"pangaea/e2e/hostnet"
	"pangaea/e2e/node"
)

var shared *node.Node

func TestMain(m *testing.M) {
	if os.Getenv(controlDir) != "" {
		os.Exit(runControl())
	}
	os.Exit(hostnet.Run(func() int {
		return node.Main(m, node.Options{Egress: "disabled = false", Runsc: true}, func(n *node.Node) { shared = n })
	}))
}
