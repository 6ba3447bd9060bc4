package pool

import (
	"time"

	"github.com/hashicorp/nomad/api"
)

// Keys in the pool's Consul. Users' tokens need key rights below KeyJobs + namespace only; everything else is
// written by gateways.
const (
	KeyRoot       = "pangaea/"
	KeyMembers    = KeyRoot + "members/"    // + alias: MemberRecord
	KeyJobs       = KeyRoot + "jobs/"       // + namespace + "/" + job ID: JobRecord, written with the user's token
	KeyPlacements = KeyRoot + "placements/" // + namespace + "/" + job ID: PlacementSet, written by the leader, fenced
	KeyLeader     = KeyRoot + "leader"      // lock; its value is the leading gateway's GatewayRecord
)

// Job metadata that only the pool can know about; a job or a group may set it.
const (
	MetaGang     = "pool_gang"      // "true": all of the group's allocations start or none
	MetaColocate = "pool_colocate"  // "member", "country" or "continent": keep the group within one
	MetaMaxPrice = "pool_max_price" // highest price of one GPU hour that the job accepts
)

// Job metadata that the member agent writes into the job it registers with its own Nomad. They are the agent's only
// durable state: a restarted agent reads its placements back from its Nomad.
const (
	MetaPlacement = "pool_placement" // placement ID
	MetaEpoch     = "pool_epoch"     // decimal epoch of the placement
	MetaNamespace = "pool_namespace" // the pool's namespace of the job
)

// JobRecord is a pool job as the user submitted it.
type JobRecord struct {
	Job        *api.Job
	Submission *api.JobSubmission
	Stopped    bool
	SubmitTime int64 // Unix time in nanoseconds
	EvalID     string
	Versions   []*api.Job `json:",omitempty"` // earlier versions, newest first, as many as fit
}

// PlacementSet is everything the leader decided about one job.
type PlacementSet struct {
	Namespace  string
	JobID      string
	JobVersion uint64
	Epoch      uint64 // highest epoch given to any placement of this job
	Placements []Placement
}

// PlacementState says how far a placement has come.
type PlacementState string

// A placement is committed by the leader, registered by its member, then complete, stopped by the user or superseded by a
// placement with a higher epoch after its member was lost.
const (
	PlacementCommitted  PlacementState = "committed"
	PlacementRegistered PlacementState = "registered"
	PlacementComplete   PlacementState = "complete" // a batch share that has run to its end: never registered again
	PlacementStopped    PlacementState = "stopped"
	PlacementSuperseded PlacementState = "superseded"
)

// Placement is the share of a pool job that one member runs. Its epoch is unique within the job, so a member can
// refuse a command that carries a lower one.
type Placement struct {
	ID        string
	Member    string
	Epoch     uint64
	State     PlacementState
	Groups    map[string]GroupShare
	CreatedAt time.Time
}

// GroupShare is how many allocations of a group a placement runs and where they stand in the whole.
type GroupShare struct {
	Count  int // allocations of the group in this placement
	Offset int // index in the pool job's group of this placement's first allocation
	Total  int // the group's count over all placements: the world size of a gang
}
