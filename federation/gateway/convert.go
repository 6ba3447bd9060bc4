package gateway

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
)

// toStructs turns an API job into the servers' own form, for Nomad's validation and comparison. Nomad's converter
// belongs to its agent, which is far too large to link here; the two forms share their JSON, and what they do not share
// (services' checks and the like) is for the member's own Nomad to judge.
func toStructs(from *api.Job) (*structs.Job, error) {
	data, err := json.Marshal(from)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the job: %w", err)
	}
	out := new(structs.Job)
	err = json.Unmarshal(data, out)
	if err != nil {
		return nil, fmt.Errorf("cannot decode the job: %w", err)
	}
	return out, nil
}

// diffJobs compares two versions with Nomad's own code; before may be nil.
func diffJobs(before, after *api.Job, contextual bool) (*structs.JobDiff, error) {
	next, err := toStructs(plain(after))
	if err != nil {
		return nil, err
	}
	if before == nil {
		var none *structs.Job
		return none.Diff(next, contextual)
	}
	old, err := toStructs(plain(before))
	if err != nil {
		return nil, err
	}
	return old.Diff(next, contextual)
}

// plain drops what a server sets and a user does not.
func plain(from *api.Job) *api.Job {
	out := *from
	out.Status, out.StatusDescription, out.Stop, out.Stable, out.SubmitTime = nil, nil, nil, nil, nil
	out.CreateIndex, out.ModifyIndex, out.JobModifyIndex, out.Version = nil, nil, nil, nil
	out.VersionTag, out.NomadTokenID = nil, nil
	return &out
}

// sameSpec reports whether two jobs ask for the same.
func sameSpec(a, b *api.Job) bool {
	x, err := json.Marshal(plain(a))
	if err != nil {
		return false
	}
	y, err := json.Marshal(plain(b))
	return err == nil && string(x) == string(y)
}
