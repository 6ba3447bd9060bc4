// Package state keeps the pool's small, slow, consistent facts in Consul: pool jobs, which member runs what, members,
// the leading gateway, and the certificates of gateways and members. It is the only package that speaks to Consul.
//
// Jobs are read and written with the user's own ACL token, so Consul itself decides who may do what; everything else
// is written with the gateway's. Every placement write is one transaction that also checks the leader's session, so a
// gateway that was deposed without noticing cannot place ([Leadership], [Fence]).
//
// Values are JSON, gzipped when that helps, below the keys that package pool names. A namespace or job ID never
// reaches outside its own key: both are checked and escaped. Invariants: an empty user token is Consul's anonymous
// token, never the gateway's own or the agent's; an access check that cannot be answered is a "no".
//
// The package must never hold live inventory: Consul takes about 100 writes a second.
package state
