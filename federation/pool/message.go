package pool

import (
	"time"

	"github.com/hashicorp/nomad/api"
)

// Paths that a member agent serves to gateways on the tunnel. Below PathNomad the agent passes an allow-listed part
// of its own Nomad's API through, translated into the pool's words: the pool's namespaces, no addresses, no token.
const (
	PathNomad   = "/v1/"
	PathReserve = "/pangaea/v1/reserve" // PUT ReserveRequest -> ReserveReply
	PathRelease = "/pangaea/v1/release" // PUT PlacementRef
	PathCommit  = "/pangaea/v1/commit"  // PUT CommitRequest -> CommitReply
	PathStop    = "/pangaea/v1/stop"    // PUT StopRequest -> CommitReply
	PathDial    = "/pangaea/v1/dial"    // GET + Upgrade, query of DialQuery: a TCP stream to a worker
)

// Paths that a gateway serves to member agents on the tunnel.
const (
	PathOffer  = "/pangaea/v1/offer"  // PUT Offer
	PathStatus = "/pangaea/v1/status" // PUT Status
	PathSync   = "/pangaea/v1/sync"   // PUT SyncRequest -> SyncReply
	PathRelay  = "/pangaea/v1/relay"  // GET + Upgrade, query of DialQuery: a TCP stream to a worker elsewhere
)

// UpgradeStream is the Upgrade header of PathDial and PathRelay: after "101 Switching Protocols" the connection is
// the raw TCP stream.
const UpgradeStream = "pangaea-stream"

// Query parameters of PathDial and PathRelay.
const (
	DialNamespace = "namespace" // the pool's namespace of the job
	DialJob       = "job"       // job ID
	DialGroup     = "group"     // task group
	DialIndex     = "index"     // index of the allocation within the whole pool job's group: the rank
	DialPort      = "port"      // label of the port in the group's network
)

// PlacementRef names a placement and the epoch that the sender believes in.
type PlacementRef struct {
	Namespace   string // the pool's
	JobID       string
	PlacementID string
	Epoch       uint64
}

// ReserveRequest asks a member to check a share of a job with its own Nomad and to hold room for it.
type ReserveRequest struct {
	PlacementRef
	Job    *api.Job // the whole pool job, its groups cut to this share
	Groups map[string]GroupShare
	TTL    time.Duration // the reservation ends by itself after this long
}

// ReserveReply says whether the member holds the room, or else why not.
type ReserveReply struct {
	Granted bool
	Reason  string                           // when not granted: one sentence for the log
	Failed  map[string]*api.AllocationMetric `json:",omitempty"` // when not granted: Nomad's own metrics by group
}

// CommitRequest tells a member to register a share of a job with its own Nomad. It is idempotent: the same epoch
// again changes nothing, a lower epoch than the one registered is refused with status 409.
type CommitRequest struct {
	PlacementRef
	Job    *api.Job
	Groups map[string]GroupShare
}

// CommitReply carries the member's own evaluation.
type CommitReply struct {
	EvalID         string
	JobModifyIndex uint64
}

// StopRequest tells a member to stop a placement, purging it from its Nomad when the user asked for that.
type StopRequest struct {
	PlacementRef
	Purge bool
}

// Status is the member's news about its placements: allocation stubs in the pool's words.
type Status struct {
	Sequence uint64
	// Full means that Allocations, with those of Known, are all of the member's, so that the gateway forgets the others.
	Full        bool
	Allocations []*api.AllocationListStub
	// Known holds the IDs of all allocations when the messages before, which are not full, told of some of them: one
	// message for all would be larger than a session takes.
	Known []string `json:",omitempty"`
	// Jobs holds, by "namespace/job", the member's own summary of a placed job, with its queued allocations.
	Jobs map[string]*api.JobSummary
}

// SyncRequest lists what a member runs for the pool. The agent sends it as the first message of every session and
// stops what the reply names before it does anything else.
type SyncRequest struct {
	Version    string // the agent's
	Place      Place
	Price      float64
	Placements []PlacementRef
}

// SyncReply names the placements that the pool has given to others or forgotten since.
type SyncReply struct {
	Stop []PlacementRef
	// Heartbeat is how often the member must speak, with an offer if nothing else.
	Heartbeat time.Duration
}
