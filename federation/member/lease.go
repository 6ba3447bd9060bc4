package member

import (
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// A placement whose group names disconnect.stop_on_client_after must not run twice. The agent stops it when it has
// lost the pool for that long; but if the agent itself, its host or the way to its Nomad dies, only something beside
// the task can. That is the driver's lease: a file that the task cannot write, rendered from a Nomad variable that the
// agent changes while it reaches the pool. When the file stops changing the task's shim kills the task.
const (
	leaseItem = "pool_lease"
	// leaseFile is in the task's directory but in none of the three that the task sees.
	leaseFile = "pool-lease"
	// leaseDriver is the driver that keeps leases.
	leaseDriver = "runc"
)

// leaseTemplate renders nothing but the variable's value. Its absence is an empty file, not a template that waits.
const leaseTemplate = `{{ with nomadVar "nomad/jobs/%[1]s" }}{{ .%[2]s }}{{ end }}`

// stopAfter is how long a group may run without the pool, 0 for any time.
func stopAfter(group *api.TaskGroup) time.Duration {
	if group.Disconnect != nil && group.Disconnect.StopOnClientAfter != nil {
		return *group.Disconnect.StopOnClientAfter
	}
	return deref(group.StopAfterClientDisconnect, 0)
}

// addLease gives the tasks of a group that must not run twice their lease.
func addLease(job *api.Job, group *api.TaskGroup) {
	ttl := stopAfter(group)
	if ttl <= 0 {
		return
	}
	for _, task := range group.Tasks {
		if task.Driver != leaseDriver {
			continue
		}
		task.Config["lease"] = []map[string]any{{"file": leaseFile, "ttl": ttl.String()}}
		task.Templates = append(task.Templates, &api.Template{
			DestPath: ptr(leaseFile), EmbeddedTmpl: ptr(fmt.Sprintf(leaseTemplate, *job.ID, leaseItem)),
			ChangeMode: ptr("noop"), Perms: ptr("0400"),
		})
	}
}

// leased tells whether a placement has a task under a lease, and the shortest time that one runs without the pool.
func (p *placed) leased() (hasLease bool, shortest time.Duration) {
	for _, group := range p.job.TaskGroups {
		ttl := stopAfter(group)
		if ttl <= 0 {
			continue
		}
		if shortest == 0 || ttl < shortest {
			shortest = ttl
		}
		for _, task := range group.Tasks {
			hasLease = hasLease || task.Driver == leaseDriver
		}
	}
	return hasLease, shortest
}

func leasePath(jobID string) string { return "nomad/jobs/" + jobID }
