package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/e2e/devpool"
)

// writeJob puts a jobspec into a file.
func writeJob(t *testing.T, spec string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "job.nomad.hcl")
	must.NoError(t, os.WriteFile(path, []byte(spec), 0o600))
	return path
}

// simpleJob is a batch job of one task; tests replace the words in capitals.
const simpleJob = `
job "JOB" {
  type = "batch"
  CONSTRAINT
  group "g" {
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
        image = "IMAGE"
        ARGS
      }
      META
      resources {
        cpu    = 50
        memory = 32
        DEVICE
      }
    }
  }
}
`

func spec(words map[string]string) string {
	all := map[string]string{"JOB": "bad", "IMAGE": "10.199.0.1:5000/hello-gpu:1", "ARGS": "", "CONSTRAINT": "", "META": "", "DEVICE": ""}
	for word, text := range words {
		all[word] = text
	}
	job := simpleJob
	for word, text := range all {
		job = strings.ReplaceAll(job, word, text)
	}
	return job
}

// unplaced runs a job that can't be placed: the CLI says why and ends with status 2, as with any Nomad.
func unplaced(t *testing.T, path string) string {
	t.Helper()
	output, err := shared.Nomad(t.Context(), "job", "run", path)
	var exit *exec.ExitError
	must.True(t, errors.As(err, &exit))
	must.Eq(t, 2, exit.ExitCode())
	must.StrContains(t, output, "failed to place all allocations")
	return output
}

// A job that no member can take stays pending with Nomad's own text, and runs when capacity appears.
func TestUnsatisfiableJobWaits(t *testing.T) {
	purgeAfter(t, "waits")
	path := writeJob(t, spec(map[string]string{"JOB": "waits", "DEVICE": `device "nvidia/gpu" { count = 3 }`}))
	output := unplaced(t, path)
	must.StrContains(t, output, `Constraint "missing devices": 3 nodes excluded by filter`)
	status := nomad(t, "job", "status", "waits")
	must.StrContains(t, status, "pending")
	must.StrContains(t, status, "Placement Failure")

	cluster := shared.Clusters[2]
	before := cluster.GPUs
	must.NoError(t, cluster.AddGPU(t.Context()))
	t.Cleanup(func() { must.NoError(t, cluster.SetGPUs(before)) })
	_, err := shared.AwaitJob(t.Context(), "waits", "complete", patience)
	must.NoError(t, err)
}

// A constraint that no country meets is named in the CLI's output.
func TestImpossibleCountry(t *testing.T) {
	purgeAfter(t, "nowhere")
	constraint := `constraint {
    attribute = "${meta.pool.country}"
    value     = "AQ"
  }`
	output := unplaced(t, writeJob(t, spec(map[string]string{"JOB": "nowhere", "CONSTRAINT": constraint})))
	must.StrContains(t, output, "${meta.pool.country} = AQ")
}

// An image that does not exist fails the task with one event that names the image.
func TestMissingImage(t *testing.T) {
	purgeAfter(t, "no-image")
	path := writeJob(t, spec(map[string]string{"JOB": "no-image", "IMAGE": "10.199.0.1:5000/nothing:1"}))
	nomad(t, "job", "run", "-detach", path)
	failed := awaitStatus(t, "no-image", "failed", patience)
	var events []string
	for _, state := range failed.TaskStates {
		for _, event := range state.Events {
			events = append(events, event.DisplayMessage)
		}
	}
	must.StrContains(t, strings.Join(events, "\n"), "10.199.0.1:5000/nothing:1")
}

// A job larger than Consul's limit for a value is refused with the cause.
func TestHugeJob(t *testing.T) {
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte('!' + rand.IntN(90)) // what compression can't shrink below the limit
	}
	text := strings.NewReplacer(`"`, "x", `\`, "y", "$", "z", "%", "w").Replace(string(noise))
	path := writeJob(t, spec(map[string]string{"JOB": "huge", "META": `meta { noise = "` + text + `" }`}))
	output, err := shared.Nomad(t.Context(), "job", "run", "-detach", path)
	must.Error(t, err)
	must.StrContains(t, output, `job "huge" is too large`)
	must.StrContains(t, output, "the pool keeps at most")
}

// A stranger's token, or none, gets nothing: Consul decides.
func TestWrongToken(t *testing.T) {
	for _, token := range []string{"", "00000000-0000-0000-0000-000000000000"} {
		output, err := shared.NomadAs(t.Context(), token, "job", "run", "-detach", "jobspecs/hello-gpu.nomad.hcl")
		must.Error(t, err)
		must.StrContains(t, output, "Permission denied")
	}
}

// One message names the cause and the next step when a part cannot start.
func TestCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		role, config string
		want         string
	}{
		"port taken":   {role: "gateway", config: shared.GatewayConfig, want: "4646.*address already in use"},
		"no config":    {role: "member", config: ``, want: "alias"},
		"unknown word": {role: "gateway", config: `prot { http = 1 }`, want: "prot"},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := shared.RunToEnd(t.Context(), patience, c.role, "-config", writeConfig(t, c.config))
			must.Error(t, err)
			must.False(t, errors.Is(err, context.DeadlineExceeded), must.Sprint("it neither starts nor ends: ", output))
			must.RegexMatch(t, regexp.MustCompile(c.want), output)
		})
	}
}

// Without Consul a gateway waits for it and says once which Consul it misses and what to do.
func TestNoConsul(t *testing.T) {
	config := `
ports {
  http   = 14646
  tunnel = 14649
}
consul { address = "http://127.0.0.1:1" }`
	missing := regexp.MustCompile("cannot reach Consul at 127.0.0.1:1")
	output, err := shared.RunUntil(t.Context(), missing, 2*time.Second, "gateway", "-config", writeConfig(t, config)) // it tries twice a second
	must.NoError(t, err, must.Sprint(output))
	must.Eq(t, 1, strings.Count(output, "[ERROR]"))
}

func writeConfig(t *testing.T, config string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.hcl")
	must.NoError(t, os.WriteFile(path, []byte(config), 0o600))
	return path
}

// A member agent whose token is another member's gets no certificate, and says whose right is missing.
func TestMemberWithAnothersToken(t *testing.T) {
	cluster := shared.Clusters[0]
	config := strings.ReplaceAll(cluster.AgentConfig, `"fr-par-1"`, `"evil-1"`)
	output, err := shared.RunToEnd(t.Context(), patience, "member", "-config", writeConfig(t, config))
	must.Error(t, err)
	must.False(t, errors.Is(err, context.DeadlineExceeded), must.Sprint("it does not end: ", output))
	must.StrContains(t, output, "pangaea-member-evil-1")
	must.RegexMatch(t, regexp.MustCompile(`(?i)permission`), output)
	must.StrNotContains(t, nomad(t, "server", "members"), "evil-1")
	for _, node := range nodesOf(t) {
		must.NotEq(t, "evil-1", node.Meta["pool.member"])
	}
}

// nodesOf reads every node of the pool.
func nodesOf(t *testing.T) []*api.Node {
	t.Helper()
	client, err := shared.API()
	must.NoError(t, err)
	stubs, _, err := client.Nodes().List(nil)
	must.NoError(t, err)
	var nodes []*api.Node
	for _, stub := range stubs {
		node, _, err := client.Nodes().Info(stub.ID, nil)
		must.NoError(t, err)
		nodes = append(nodes, node)
	}
	must.SliceNotEmpty(t, nodes)
	return nodes
}

// A certificate that the pool's authority did not sign does not get past the handshake, and the gateway says why.
func TestMemberWithForeignCertificate(t *testing.T) {
	certificate := selfSigned(t, "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/pool/svc/pangaea-member-fr-par-1")
	conn, err := tls.Dial("tcp", devpool.BridgeAddress+":4649", &tls.Config{
		Certificates:       []tls.Certificate{certificate},
		InsecureSkipVerify: true, // the test plays a stranger, who trusts anybody
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"pangaea/1"},
	})
	if err == nil {
		// With TLS 1.3 the client learns of the refusal when it reads.
		must.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
		must.NoError(t, conn.Close())
	}
	must.ErrorContains(t, err, "remote error: tls")
	// The line follows the alert that the stranger sees.
	warning := regexp.MustCompile(`(?m)^.*WARN.*certificate.*$`)
	for deadline := time.Now().Add(patience); !warning.MatchString(gatewayLog(t)); time.Sleep(20 * time.Millisecond) {
		must.True(t, time.Now().Before(deadline), must.Sprint(gatewayLog(t)))
	}
}

func gatewayLog(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(shared.Dir, "logs", "gateway.log"))
	must.NoError(t, err)
	return string(log)
}

// selfSigned makes a certificate with a SPIFFE ID that only its maker vouches for.
func selfSigned(t *testing.T, id string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	must.NoError(t, err)
	uri, err := url.Parse(id)
	must.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	must.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
