package scheduler

import (
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"

	"pangaea/federation/pool"
)

// Request is everything that a placement depends on.
type Request struct {
	// Job is the pool job; it is canonicalized already and is not changed.
	Job *api.Job
	// Members are the members of the pool. Only ready ones are given more work.
	Members []Member
	// Current holds the shares that stay where they are, at most one for each member and group. Of shares that add up
	// to more than the group's count the last are cut.
	Current []Share
	// Excluded holds members that refused this job in this evaluation.
	Excluded map[string]Exclusion
}

// Member is one member as the scheduler sees it.
type Member struct {
	Alias string
	State pool.MemberState
	Offer *Offer // nil when the member has not sent one yet
}

// Share is a group's share that a member has or gets.
type Share struct {
	Member string
	Group  string
	pool.GroupShare
}

// Exclusion is a member's own refusal.
type Exclusion struct {
	Reason string
	Failed map[string]*api.AllocationMetric
}

// Result is what to run where.
type Result struct {
	// Shares are all shares of the job, those that stay included, ordered by group and offset.
	Shares []Share
	// Failed explains, by group, why allocations are missing from Shares.
	Failed map[string]*api.AllocationMetric
}

// Groups returns the shares of one member, or nil.
func (r Result) Groups(member string) map[string]pool.GroupShare {
	var groups map[string]pool.GroupShare
	for _, share := range r.Shares {
		if share.Member != member {
			continue
		}
		if groups == nil {
			groups = map[string]pool.GroupShare{}
		}
		groups[share.Group] = share.GroupShare
	}
	return groups
}

// Offer is a member's offer made ready for many placements. It is immutable.
type Offer struct {
	place   pool.Place
	price   float64
	head    *structs.Node // nothing but the pool's own attributes
	classes []class
}

type class struct {
	node  *structs.Node
	kind  signature
	nodes int // how many nodes are of this class
	spare int // nodes and GPUs that are free
	free  []pool.Capacity
}

// maxNodes is far more nodes than a class can have.
const maxNodes = 100_000

// NewOffer prepares an offer. The pool's own words (member, country, price, ...) are set on every class from the
// offer's head, since the alias comes from a certificate and must not be the member's to choose.
func NewOffer(offer pool.Offer) *Offer {
	out := &Offer{place: offer.Place, price: offer.Price, head: &structs.Node{Meta: poolMeta(nil, offer)}, classes: make([]class, 0, len(offer.Classes))}
	for _, c := range offer.Classes {
		if c.Node == nil {
			continue
		}
		prepared := class{node: newNode(c.Node, offer), kind: sign(c.Node)}
		for _, capacity := range c.Free {
			if capacity.Count > 0 {
				capacity.Count = min(capacity.Count, maxNodes) // sums of what a liar offers must not overflow
				prepared.nodes += capacity.Count
				prepared.spare += capacity.Count * (1 + gpus(capacity))
				prepared.free = append(prepared.free, capacity)
			}
		}
		out.classes = append(out.classes, prepared)
	}
	return out
}
