// Package nomad is the member agent's hand on its own cluster: the only package that calls a member's Nomad API and
// that holds its token.
//
// [Client] reads what the cluster has and runs (nodes, allocations, jobs, events), registers and stops jobs, and
// forwards requests that the agent has already judged. It decides nothing: which objects the pool may see and what
// a job may ask for is the member package's business.
//
// The token is sent to the configured address alone: redirects are not followed and proxies from the environment are
// not used. Errors are Nomad's own, with the address when it cannot be reached.
package nomad
