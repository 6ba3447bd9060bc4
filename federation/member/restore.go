package member

import (
	"fmt"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// refs lists what the cluster runs for the pool, for the first message of a session.
func (s *snapshot) refs() []pool.PlacementRef {
	list := make([]pool.PlacementRef, 0, len(s.jobs))
	for key, job := range s.jobs {
		if !job.stopped {
			list = append(list, job.tag.ref(key.id))
		}
	}
	return list
}

// reopen opens the relay ports that placed gangs were told, after a restart, and closes those of jobs that are gone.
func (p *placements) reopen(s *snapshot) {
	wanted := map[string]bool{}
	for key, placed := range s.jobs {
		if placed.stopped || deref(placed.job.Status, "") == "dead" {
			continue
		}
		for _, group := range placed.job.TaskGroups {
			port := placed.tag.Relays[deref(group.Name, "")]
			if port == 0 {
				continue
			}
			open := relayKey(placed.tag.Namespace, key.id, *group.Name, rendezvousPort(group))
			wanted[open.Namespace+"\x00"+open.Job+"\x00"+open.Group] = true
			_, err := p.relay.Open(open, port)
			if err != nil {
				p.logger.Error("cannot reopen a relay port: the gang's workers will not meet", "job", key.id, "port", port, "error", err)
			}
		}
	}
	for _, open := range p.relay.Keys() {
		if !wanted[open.Namespace+"\x00"+open.Job+"\x00"+open.Group] && p.finished(s, open.Namespace, open.Job) {
			p.relay.CloseKey(open)
		}
	}
}

// finished tells whether a job is known to have ended; one that is only being registered is not known yet.
func (p *placements) finished(s *snapshot, namespace, id string) bool {
	placed := s.jobs[jobKey{p.words.toMember(namespace), id}]
	return placed != nil && (placed.stopped || placed.stub.Status == "dead")
}

// memberJob finds a placed job by the pool's names.
func (s *snapshot) memberJob(w words, namespace, id string) *placed {
	return s.jobs[jobKey{w.toMember(namespace), id}]
}

// holder finds the living allocation that holds an index of the pool job's group.
func (s *snapshot) holder(w words, namespace, id, group string, index int) *api.AllocationListStub {
	placed := s.memberJob(w, namespace, id)
	if placed == nil {
		return nil
	}
	offset, ok := placed.tag.Offsets[group]
	if !ok || index < offset {
		return nil
	}
	want := fmt.Sprintf("%s.%s[%d]", id, group, index-offset)
	var newest *api.AllocationListStub
	for _, a := range s.allocations {
		if a.Namespace == w.toMember(namespace) && a.JobID == id && a.Name == want && a.ClientStatus == api.AllocClientStatusRunning {
			if newest == nil || a.CreateIndex > newest.CreateIndex {
				newest = a
			}
		}
	}
	return newest
}
