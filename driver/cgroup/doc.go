// Package cgroup finds, empties and removes the cgroups of one task, on cgroup v1, v2 and both at once.
//
// A task's cgroups have one path below each hierarchy, the OCI spec's cgroupsPath, which is the path that Nomad
// handed over. The package makes none and sets no limits: the OCI runtime does.
//
// Invariants: a path with fewer than two components is refused, so that the machine's own processes can't be
// what is killed; neither is this process or pid 1. It is used by the per-task programs and keeps to small imports.
package cgroup
