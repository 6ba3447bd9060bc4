// Package supervisor starts sandboxes, and finds them again after the plugin that started them has gone.
//
// Each task has one lean supervising process, the shim (driver/shim), that outlives this one: it owns the
// task's pipes, is the parent of the task's init and writes down how the task ended. What this package does
// is start shims, read their records and signal, stop, measure and enter the sandboxes.
//
// On disk it owns nothing but what lies in a task's Dir, which the caller makes (root only, on a disk) and
// removes after Destroy: config.json (the OCI bundle's), state, exit and the shim's log.
//
// Invariants: nothing runs that is not recorded; a process is signalled only through a pidfd whose start time
// is the recorded one, so a reused pid is never hit; an exit code, once known, is never replaced.
package supervisor
