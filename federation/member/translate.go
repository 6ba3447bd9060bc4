package member

import (
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// words translates between the pool's names and the member's own Nomad's.
type words struct{ prefix string }

// toMember returns the member's namespace for one of the pool's.
func (w words) toMember(namespace string) string { return w.prefix + namespace }

// toPool returns the pool's namespace for one of the member's, false for the owner's own.
func (w words) toPool(namespace string) (string, bool) {
	name, ours := strings.CutPrefix(namespace, w.prefix)
	return name, ours && name != ""
}

// job turns a pool job into what the member registers: its share of the groups, in the member's namespace, without
// what only the pool can act on.
func (w words) job(namespace string, source *api.Job, groups map[string]pool.GroupShare, policy Policy) (*api.Job, error) {
	if source == nil || deref(source.ID, "") == "" {
		return nil, fmt.Errorf("the request carries no job")
	}
	job := *source
	job.Region, job.Multiregion = nil, nil
	job.Namespace = ptr(w.toMember(namespace))
	job.Priority = ptr(min(deref(job.Priority, api.JobDefaultPriority), policy.MaxPriority))
	// Fields that Nomad's server sets; a caller's values would only confuse.
	job.Stop, job.Status, job.StatusDescription, job.Stable, job.Version = nil, nil, nil, nil, nil
	job.SubmitTime, job.CreateIndex, job.ModifyIndex, job.JobModifyIndex = nil, nil, nil, nil
	job.NomadTokenID, job.VersionTag, job.ParentID = nil, nil, nil
	job.TaskGroups = nil
	for _, group := range source.TaskGroups {
		share, placed := groups[deref(group.Name, "")]
		if !placed || share.Count <= 0 {
			continue
		}
		own := *group
		own.Count = ptr(share.Count)
		own.Scaling = nil // scaling is the pool's, not of each share by itself
		own.Tasks = cloneTasks(group.Tasks)
		job.TaskGroups = append(job.TaskGroups, &own)
	}
	if len(job.TaskGroups) == 0 {
		return nil, fmt.Errorf("the request carries no group with a share for this member")
	}
	return &job, nil
}

// oneTime keeps what the member's Nomad can act on. It refuses a group that names both times; in the pool they mean
// different things, the member that is lost and the one that stops what it runs, and only the latter is the member's.
func oneTime(group *api.TaskGroup) {
	if group.Disconnect == nil || group.Disconnect.StopOnClientAfter == nil || group.Disconnect.LostAfter == nil {
		return
	}
	own := *group.Disconnect
	own.LostAfter = nil
	group.Disconnect = &own
}

// cloneTasks copies as deep as the agent changes tasks: their list, templates and driver configuration.
func cloneTasks(tasks []*api.Task) []*api.Task {
	clones := make([]*api.Task, 0, len(tasks))
	for _, task := range tasks {
		clone := *task
		clone.Templates = append([]*api.Template(nil), task.Templates...)
		clone.Config = make(map[string]any, len(task.Config)+1)
		for key, value := range task.Config {
			clone.Config[key] = value
		}
		clones = append(clones, &clone)
	}
	return clones
}

// mark writes who placed a job into it: the tag for the agent, and two metadata keys that never change during a
// placement for people and tasks to read.
func mark(job *api.Job, t tag) {
	meta := make(map[string]string, len(job.Meta)+2)
	for key, value := range job.Meta {
		meta[key] = value
	}
	delete(meta, pool.MetaEpoch)
	meta[pool.MetaPlacement] = t.PlacementID
	meta[pool.MetaNamespace] = t.Namespace
	job.Meta = meta
	t.write(job)
}

// isGang tells whether a group's allocations are workers that must find each other.
func isGang(job *api.Job, group *api.TaskGroup) bool {
	if value, set := group.Meta[pool.MetaGang]; set {
		return value == "true"
	}
	return job.Meta[pool.MetaGang] == "true"
}
