// Package gateway is the pool's front door: it speaks Nomad's HTTP API to users and their unmodified tools, accepts the
// tunnels of members, and, while it leads, decides where jobs run.
//
// Any number of gateways may run. The one that holds the leader's lock in Consul serves the API; the others pass
// requests on to it and are ready to take over. All that must survive is in Consul (package state): jobs, written with
// the user's own token, and placements, written behind the leader's fence. Everything else is made again from what
// members say when they connect: offers, allocations, what they run for the pool.
//
// Placement is a reconciler ([Gateway] reconcile): it compares what Consul says should run with what members say
// they run and moves one towards the other, so a crash at any point needs no special repair. A job is reconciled by one
// goroutine at a time, whenever something about it changed; nothing polls.
//
// Invariants: a member is told nothing that is not in Consul first; a placement's epoch only grows; no member is ever
// asked to run a share while another may still run it, unless the job's own loss clock has run out; a user's token ends
// here and is never sent to a member.
package gateway
