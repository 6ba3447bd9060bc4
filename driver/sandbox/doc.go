// Package sandbox turns a task into an OCI runtime specification, and nothing else: [Spec] is a pure function of a
// [Task], what the job asked for after the operator's rules were applied, and a [Host], what this machine can do.
//
// The specification is built by a table of small appliers from an empty one, so a setting that no applier makes does
// not exist: there is no inherited environment, no hook, no namespace shared by accident. Tenants are hostile. Every
// specification has its own user namespace over a range of identifiers that no other task has, private pid, mount,
// ipc, uts, cgroup and (unless the operator allowed the host's) network namespaces, no-new-privileges, empty
// capability sets, an allow-list of system calls, a device cgroup that starts from "deny all", masked and read-only
// kernel files, and limits on processes, memory and CPU.
//
// The package must never look into the task's root file system, run anything, or read this machine's state: whoever
// needs a fact hands it in. [Check] is the same list read the other way round, and holds for every specification
// that Spec returns; tests and the driver use it.
package sandbox
