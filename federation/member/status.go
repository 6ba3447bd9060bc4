package member

import (
	"slices"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// reporter remembers what one gateway was told of the pool's allocations, so that it gets only what changed. It is
// used by one goroutine.
type reporter struct {
	words    words
	sequence uint64
	sent     map[string]uint64 // allocation ID to its ModifyIndex
	jobs     map[string]uint64 // "namespace/job" to its summary's ModifyIndex
}

// next returns the news since the last call, false if there is none. The first call returns everything, as does one
// that finds that Nomad has forgotten allocations.
func (r *reporter) next(s *snapshot) (pool.Status, bool) {
	full := r.sent == nil || r.forgotten(s)
	status := pool.Status{Full: full, Jobs: map[string]*api.JobSummary{}}
	if full {
		r.sent, r.jobs = map[string]uint64{}, map[string]uint64{}
	}
	for _, a := range s.allocations {
		namespace, ours := r.words.toPool(a.Namespace)
		if !ours || s.jobs[jobKey{a.Namespace, a.JobID}] == nil || r.sent[a.ID] == a.ModifyIndex {
			continue
		}
		r.sent[a.ID] = a.ModifyIndex
		stub := *a
		stub.Namespace, stub.AllocatedResources = namespace, nil
		status.Allocations = append(status.Allocations, &stub)
	}
	for key, job := range s.jobs {
		r.addSummary(&status, key, job)
	}
	if !full && len(status.Allocations) == 0 && len(status.Jobs) == 0 {
		return status, false
	}
	r.sequence++
	status.Sequence = r.sequence
	return status, true
}

// maxPart is how many allocations one message tells of: with ten events of each of some tasks it is a few MiB.
const maxPart = 200

// parts makes of one report the messages that carry it, in order.
func parts(status pool.Status) []pool.Status {
	if len(status.Allocations) <= maxPart {
		return []pool.Status{status}
	}
	var out []pool.Status
	for part := range slices.Chunk(status.Allocations, maxPart) {
		out = append(out, pool.Status{Sequence: status.Sequence, Allocations: part})
	}
	last := &out[len(out)-1]
	last.Full, last.Jobs = status.Full, status.Jobs
	if status.Full {
		for _, stub := range status.Allocations {
			last.Known = append(last.Known, stub.ID)
		}
	}
	return out
}

func (r *reporter) addSummary(status *pool.Status, key jobKey, job *placed) {
	summary := job.stub.JobSummary
	name := job.tag.Namespace + "/" + key.id
	if summary == nil || r.jobs[name] == summary.ModifyIndex {
		return
	}
	r.jobs[name] = summary.ModifyIndex
	translated := *summary
	translated.Namespace = job.tag.Namespace
	status.Jobs[name] = &translated
}

func (r *reporter) forgotten(s *snapshot) bool {
	left := len(r.sent)
	for _, a := range s.allocations {
		if _, known := r.sent[a.ID]; known {
			left--
		}
	}
	return left > 0
}

// failed makes the next call return everything, after a report that may not have arrived.
func (r *reporter) failed() { r.sent = nil }
