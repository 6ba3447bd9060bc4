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
//
// A placement whose group names disconnect.lost_after may run on without the pool, and the pool gives it to another
// member after that time. When its node comes back, Nomad starts its tasks again before the agent has heard that they
// are another's: here the lease, which never ends, only holds the start until the agent has synchronised.
const (
	leaseItem = "pool_lease"
	// leaseFile is in the task's directory but in none of the three that the task sees.
	leaseFile = "pool-lease"
	// leaseDriver is the driver that keeps leases.
	leaseDriver = "runc"
)

// leaseTemplate renders nothing but the variable's value. Its absence is an empty file, not a template that waits.
const leaseTemplate = `{{ with nomadVar %[1]q }}{{ .%[2]s }}{{ end }}`

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
	lease(job, group, ttl)
	// A node that is cut off from its servers ends its tasks within the lease: only then may Nomad replace them.
	own := *group.Disconnect
	own.StopOnClientAfter = nil
	own.LostAfter = ptr(max(deref(own.LostAfter, 0), ttl+leaseMargin))
	own.Replace = ptr(false)
	group.Disconnect = &own
}

// addHold has the tasks of a group that the pool may have given to others wait for the agent before they start.
func addHold(job *api.Job, group *api.TaskGroup) {
	if lostAfter(group) > 0 && allLeasable(group) {
		lease(job, group, holdTTL)
	}
}

// holdTTL is a lease that never ends.
const holdTTL = 10 * 365 * 24 * time.Hour

// holdRenewal is the time of which a third passes between two renewals of a lease that only holds starts: those are
// for a task that is held though nobody saw it start.
const holdRenewal = 45 * time.Second

// lostAfter is how long the pool waits for a silent member before it gives the group to another, 0 if the job does not
// say.
func lostAfter(group *api.TaskGroup) time.Duration {
	if group.Disconnect == nil {
		return 0
	}
	return deref(group.Disconnect.LostAfter, 0)
}

// lease has the driver keep a lease for each task of the group.
func lease(job *api.Job, group *api.TaskGroup, ttl time.Duration) {
	for _, task := range group.Tasks {
		task.Config["lease"] = []map[string]any{{"file": leaseFile, "ttl": ttl.String()}}
		task.Templates = append(task.Templates, leaseRenderer(*job.ID))
	}
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
		DestPath: ptr(leaseFile), EmbeddedTmpl: ptr(fmt.Sprintf(leaseTemplate, leasePath(jobID), leaseItem)),
		ChangeMode: ptr("noop"), Perms: ptr("0400"),
		Wait: &api.WaitConfig{Min: ptr(time.Millisecond), Max: ptr(10 * time.Millisecond)},
	}
}

// stopAfter is the shortest time that a group of the placement runs without the pool, 0 if all run for any time.
func (p *placed) stopAfter() time.Duration { return shortest(p.tag.Stops) }

// lostAfter is the shortest time after which a group of the placement may be another's, 0 if none says.
func (p *placed) lostAfter() time.Duration { return shortest(p.tag.Holds) }

func shortest(milliseconds map[string]int) time.Duration {
	least := time.Duration(0)
	for _, after := range milliseconds {
		ttl := time.Duration(after) * time.Millisecond
		if ttl > 0 && (least == 0 || ttl < least) {
			least = ttl
		}
	}
	return least
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
