// Package record holds what a task leaves on disk for those who come after: how it was launched, what runs
// and how it ended, and the decision what is left of a task after a crash.
//
// A task's directory is root only and outlives every process that works on the task:
//
//	launch  written before anything runs, by the plugin's process
//	state   written by the shim once the sandbox exists and before the task's program starts
//	exit    written by the shim once the task has ended; never replaced once it is there
//
// A record is a text of lines, each a name and a value. Each file is replaced whole: a temporary file and a rename,
// so a reader sees the old one, the new one or none. The exit record is also synced to disk, so that an exit code
// outlives a power cut; the others say nothing that is true after one, and a reader knows that by the boot id.
//
// Decide is a pure function of those records and of a few facts about processes and cgroups, so that its whole
// table can be tested. The package starts, signals and waits for nothing.
package record
