// Package evict stops the tasks that hold a GPU which its owner wants back. It asks Nomad to stop their allocations, so
// that each has its kill_timeout and its job is placed elsewhere; it never signals a process itself.
//
// It speaks to the Nomad agent that runs the plugin, with a token of its own from a file that only root should read. The
// token needs node:read and, in the namespaces concerned, read-job and alloc-lifecycle.
package evict
