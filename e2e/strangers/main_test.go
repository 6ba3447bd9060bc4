package strangers

import (
	"os"
	"testing"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/hostnet"
	"pangaea/e2e/node"
)

var shared *node.Node

func TestMain(m *testing.M) {
	os.Exit(hostnet.Run(func() int {
		return node.Main(m, node.Options{
			Programs: []string{"exit", "reach"},
			Egress:   `police_namespaces = ["pool-*"]`,
			Runsc:    true,
			Driver: `
    dns { servers = ["192.168.1.53"] }
    require_runtime {
      namespaces = ["sandboxed"]
      runtime    = "runsc"
    }`,
		}, func(n *node.Node) { shared = n })
	}))
}

// inNamespace makes a namespace of Nomad's that a jobspec names.
func inNamespace(t *testing.T, name string) {
	t.Helper()
	_, err := shared.API().Namespaces().Register(&api.Namespace{Name: name}, nil)
	if err != nil {
		t.Fatal("cannot make a namespace: ", err)
	}
}
