// Package ownership gives files that Nomad writes to the task that shall read them, where the kernel can't do it.
//
// A task's users are a range of the host's, and Nomad writes as the host's root. Id-mapped mounts show root's files as
// the task's own, but only from Linux 6.3 on for files in memory (commit 7a80e5b8c6fa), and a task's /secrets is in
// memory: on Debian 12's own kernel, 6.1, no task could read its secrets, or start at all. There this package changes
// the owners themselves, once before the task starts and again whenever Nomad writes anew, and the mount stays unmapped.
//
// It owns nothing on disk. Invariants: only entries whose owner lies outside the task's range change; nothing is
// followed out of the directory, whatever links the task makes in it; what a task does in its own directory costs the
// host one walk a second at most.
package ownership
