// Package scheduler decides which members of the pool run a job: offers and a job in, shares or reasons out.
//
// It is pure: no clock, no network, no Consul, and the same request always gives the same result. It chooses members,
// never nodes: an offer describes classes of identical nodes with what is free on them, so the cost does not grow with
// the number of nodes. What a constraint means is Nomad's own code (scheduler/feasible), so that a job that fits here
// fits in the member's Nomad; what only a node can know (unique attributes, ports, sticky volumes) is left to the
// member's own plan, whose "no" comes back in Request.Excluded.
//
// The order of choice is affinity, spread over attributes, price, then the fewest and fullest members. A gang group is
// placed whole or not at all. What cannot be placed is explained with Nomad's own AllocationMetric, which the CLI
// prints as it prints its own cluster's.
package scheduler
