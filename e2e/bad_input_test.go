package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
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
	all := map[string]string{"JOB": "bad", "IMAGE": "10.199.0.1:5000/hello-gpu:1", "CONSTRAINT": "", "META": "", "DEVICE": ""}
	for word, text := range words {
		all[word] = text
	}
	job := simpleJob
	for word, text := range all {
		job = strings.ReplaceAll(job, word, text)
	}
	return job
}

// A job that no member can take stays pending with Nomad's own text, and runs when capacity appears.
func TestUnsatisfiableJobWaits(t *testing.T) {
	purgeAfter(t, "waits")
	path := writeJob(t, spec(map[string]string{"JOB": "waits", "DEVICE": `device "nvidia/gpu" { count = 3 }`}))
	output := nomad(t, "job", "run", path)
	must.StrContains(t, output, "Failed to place allocation")
	status := nomad(t, "job", "status", "waits")
	must.StrContains(t, status, "pending")
	must.StrContains(t, status, "Placement Failure")

	cluster := shared.Clusters[2]
	before := cluster.GPUs
	must.NoError(t, cluster.AddGPU(t.Context()))
	t.Cleanup(func() { must.NoError(t, cluster.SetGPUs(before)) })
	_, err := shared.AwaitJob(t.Context(), "waits", "complete", time.Minute)
	must.NoError(t, err)
}

// A constraint that no country meets is named in the CLI's output.
func TestImpossibleCountry(t *testing.T) {
	purgeAfter(t, "nowhere")
	constraint := `constraint {
    attribute = "${meta.pool.country}"
    value     = "AQ"
  }`
	output := nomad(t, "job", "run", writeJob(t, spec(map[string]string{"JOB": "nowhere", "CONSTRAINT": constraint})))
	must.StrContains(t, output, "${meta.pool.country} = AQ")
}

// An image that does not exist fails the task with one event that names the image.
func TestMissingImage(t *testing.T) {
	purgeAfter(t, "no-image")
	path := writeJob(t, spec(map[string]string{"JOB": "no-image", "IMAGE": "10.199.0.1:5000/nothing:1"}))
	nomad(t, "job", "run", "-detach", path)
	failed := awaitStatus(t, "no-image", "failed", time.Minute)
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
	must.StrContains(t, output, "512 KiB")
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
	cases := map[string]struct {
		role, config string
		want         []string
	}{
		"no Consul": {
			role: "gateway",
			config: `
				ports {
				  http   = 14646
				  tunnel = 14649
				}
				consul { address = "http://127.0.0.1:1" }`,
			want: []string{"127.0.0.1:1", "Consul"},
		},
		"port taken": {role: "gateway", config: shared.GatewayConfig, want: []string{"4646", "in use"}},
		"no config":  {role: "member", config: ``, want: []string{"alias"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.hcl")
			must.NoError(t, os.WriteFile(path, []byte(c.config), 0o600))
			output, err := shared.RunToEnd(t.Context(), 20*time.Second, c.role, "-config", path)
			must.Error(t, err)
			must.False(t, errors.Is(err, context.DeadlineExceeded), must.Sprint("it neither starts nor ends: ", output))
			for _, want := range c.want {
				must.StrContains(t, output, want)
			}
		})
	}
}
