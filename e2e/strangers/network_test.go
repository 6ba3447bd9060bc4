package strangers

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/hostnet"
)

const reachJob = `
job "reach-NAMESPACE" {
  type      = "batch"
  namespace = "NAMESPACE"
  group "g" {
    network {
      mode = "bridge"
      port "greeting" {
        to = 8080
      }
    }
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "t" {
      driver = "runc"
      config {
        image = "IMAGES/reach:1"
        args  = ["8.8.8.8:8080", "192.168.1.1:8080", "192.168.1.2:8080", "169.254.169.254:8080"]
        ports = ["greeting"]
      }
      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
`

// The network of a stranger's group leads to the internet only, and Nomad's ports still lead into it. That of the owner's
// own job reaches whatever the host does.
func TestRootBridgeOfStrangers(t *testing.T) {
	cases := []struct{ namespace, near string }{{"default", "open"}, {"pool-strangers", "closed"}}
	for _, c := range cases {
		t.Run(c.namespace, func(t *testing.T) {
			inNamespace(t, c.namespace)
			job, err := shared.Run(t.Context(), strings.ReplaceAll(reachJob, "NAMESPACE", c.namespace))
			must.NoError(t, err)
			a, err := shared.AwaitStatus(t.Context(), job, api.AllocClientStatusRunning)
			must.NoError(t, err)
			text, err := shared.AwaitLog(t.Context(), a.ID, "t", "serving")
			must.NoError(t, err)
			must.Eq(t, "8.8.8.8:8080 open\n192.168.1.1:8080 "+c.near+"\n192.168.1.2:8080 "+c.near+"\n169.254.169.254:8080 "+c.near+"\nserving\n", text)

			port := a.AllocatedResources.Shared.Ports[0]
			must.Eq(t, 8080, port.To)
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(hostnet.Address, strconv.Itoa(port.Value)), time.Minute)
			must.NoError(t, err)
			must.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
			answer := make([]byte, 5)
			_, err = conn.Read(answer)
			must.NoError(t, err)
			must.Eq(t, "hello", string(answer))
			must.NoError(t, conn.Close())
			must.NoError(t, shared.Stop(t.Context(), job))
			must.NoError(t, shared.AwaitClean(a.ID))
		})
	}
}
