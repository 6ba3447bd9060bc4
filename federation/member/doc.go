// Package member is the agent that lends a Nomad cluster to a pool. It runs beside the cluster's servers, dials every
// gateway of the pool, tells them what the cluster has to give, and registers with its own Nomad what the pool places
// there. It holds the cluster's Nomad token; no gateway ever sees it.
//
// The owner has the last word: [Policy] is checked before anything is registered, pool jobs live in namespaces of
// their own, and the owner's jobs, allocations and addresses are never shown.
//
// The agent keeps nothing on disk. What it runs for the pool, with epoch and relay ports, is written into the jobs
// that it registers ([tag]) and read back from there, so killing it at any instant loses nothing. Invariants: a
// command with a lower epoch than the registered one is refused; the first exchange of a session is a SyncRequest,
// and what the reply names is stopped before anything else is obeyed; a placement whose job must not run twice is
// stopped when no gateway was reached for the time that the job names.
package member
