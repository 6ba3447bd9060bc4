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
	if group.Disconnect == nil {
		return 0
	}
	return deref(group.Disconnect.StopOnClientAfter, 0)
}

// addLease gives the tasks of a group that must not run twice their lease, in place of Nomad's own stop: Nomad's
// client counts from its last heartbeat, and those are 10 s or more apart, so that it kills healthy tasks whose time
// is shorter. A group with a task that cannot have a lease keeps Nomad's.
func addLease(job *api.Job, group *api.TaskGroup) {
	ttl := stopAfter(group)
	if ttl < minLease || !allLeasable(group) {
		return
	}
	for _, task := range group.Tasks {
		task.Config["lease"] = []map[string]any{{"file": leaseFile, "ttl": ttl.String()}}
		task.Templates = append(task.Templates, leaseRenderer(*job.ID))
	}
	// A node that is cut off from its servers ends its tasks within the lease: only then may Nomad replace them.
	own := *group.Disconnect
	own.StopOnClientAfter = nil
	own.LostAfter = ptr(max(deref(own.LostAfter, 0), ttl+leaseMargin))
	own.Replace = ptr(false)
	group.Disconnect = &own
}

// leaseMargin covers the shim's clock, its killing and Nomad's rendering.
const leaseMargin = 15 * time.Second

func allLeasable(group *api.TaskGroup) bool {
	for _, task := range group.Tasks {
		if task.Driver != leaseDriver {
			return false
		}
	}
	return true
}

// minLease is the shortest lease that the driver takes: a shorter one would end with every hiccup.
const minLease = 2 * time.Second

// leaseRenderer writes each new value of the variable into the task's directory. Nomad would by default wait five
// seconds for more changes before it renders one.
func leaseRenderer(jobID string) *api.Template {
	return &api.Template{
		DestPath: ptr(leaseFile), EmbeddedTmpl: ptr(fmt.Sprintf(leaseTemplate, jobID, leaseItem)),
		ChangeMode: ptr("noop"), Perms: ptr("0400"),
		Wait: &api.WaitConfig{Min: ptr(time.Millisecond), Max: ptr(10 * time.Millisecond)},
	}
}

// stopAfter is the shortest time that a group of the placement runs without the pool, 0 if all run for any time.
func (p *placed) stopAfter() time.Duration {
	shortest := time.Duration(0)
	for _, after := range p.tag.Stops {
		ttl := time.Duration(after) * time.Millisecond
		if ttl > 0 && (shortest == 0 || ttl < shortest) {
			shortest = ttl
		}
	}
	return shortest
}

// starting tells whether a task of a placement may be held by its shim, which waits for the first change of its lease:
// then each second without one is a second that the user waits.
func (s *snapshot) starting(key jobKey, now time.Time) bool {
	for _, a := range s.allocations {
		if a.JobID != key.id || a.Namespace != key.namespace || !alive(a) {
			continue
		}
		if a.ClientStatus == api.AllocClientStatusPending {
			return true
		}
		for _, task := range a.TaskStates {
			if task.State != "dead" && (now.Sub(task.StartedAt) < heldAtMost || now.Sub(task.LastRestart) < heldAtMost) {
				return true
			}
		}
	}
	return false
}

const heldAtMost = 3 * time.Second

func leasePath(jobID string) string { return "nomad/jobs/" + jobID }
