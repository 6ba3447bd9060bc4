package node

import (
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

const lively = `
job "lively" {
  type = "batch"
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "well" {
      driver = "runc"
      config {
        image = "IMAGES/exit:1"
        args  = ["600", "0"]
        init  = true
        tty   = true
        healthchecks {
          test     = ["CMD", "/usr/bin/exit", "0", "0"]
          interval = "2s"
        }
      }
      template {
        data        = "written by Nomad"
        destination = "local/file"
      }
      resources {
        cpu    = 50
        memory = 32
      }
    }
    task "sick" {
      driver = "runc"
      config {
        image = "IMAGES/exit:1"
        args  = ["600", "0"]
        healthchecks {
          test     = ["CMD", "/usr/bin/exit", "0", "3"]
          interval = "2s"
          retries  = 1
        }
      }
      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
`

// What a task's health is shows among its events; its files and its signals are within the CLI's reach.
func TestRootNodeLife(t *testing.T) {
	job, err := shared.Run(t.Context(), lively)
	must.NoError(t, err)
	said := func(message string) func(*api.TaskEvent) bool {
		return func(e *api.TaskEvent) bool { return e.DisplayMessage == message }
	}
	_, _, err = shared.AwaitEvent(t.Context(), job, api.TaskDriverMessage, said("healthy"))
	must.NoError(t, err)
	a, _, err := shared.AwaitEvent(t.Context(), job, api.TaskDriverMessage, said("unhealthy: exit 3"))
	must.NoError(t, err)

	text, err := shared.Nomad(t.Context(), "alloc", "fs", a.ID, "well/local/file")
	must.NoError(t, err, must.Sprint(text))
	must.StrContains(t, text, "written by Nomad")

	text, err = shared.Nomad(t.Context(), "alloc", "signal", "-s", "SIGTERM", "-task", "well", a.ID)
	must.NoError(t, err, must.Sprint(text))
	// The init ends as the program does. What the other task ends with then is Nomad's doing.
	_, _, err = shared.AwaitEvent(t.Context(), job, api.TaskTerminated, func(e *api.TaskEvent) bool { return e.ExitCode == 128+15 })
	must.NoError(t, err)
	must.NoError(t, shared.Stop(t.Context(), job))
}
