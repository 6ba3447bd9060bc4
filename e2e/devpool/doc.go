// Package devpool runs a whole pool on one machine: one Consul, an OCI registry, a gateway on Nomad's own port, and
// per member a separate Nomad cluster with its member agent in a network namespace of its own.
//
// Nothing in it is faked but the GPUs: the clusters are real Nomad agents that share no server, no token and no
// network; each one's namespace hangs on a bridge whose ports are isolated from one another, so members reach the
// gateway and Consul, and never each other. Without an NVIDIA driver the NVML simulator stands in for the GPUs.
//
// A Pool owns one directory, one bridge, its network namespaces and the processes that it started. Stop takes all of
// it down; what a killed run left behind is taken down by the next Start. Two pools on one machine exclude each
// other by a lock.
package devpool
