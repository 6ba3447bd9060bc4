// Command pangaea-shim supervises one task: it is the parent of the task's init and outlives the plugin and
// the Nomad client.
//
// It has the OCI runtime create the sandbox with pipes that it made, records what runs, lets the runtime start the
// task's program, carries the task's output to Nomad's log FIFOs, reaps, and writes how the task ended. It is
// called with the task's directory, whose launch says all else, and tells descriptor 3 in one line whether
// the task has started. With --adopt it takes over a task whose shim was killed.
//
// By the name of pangaea-init the same program is the first process of a sandbox whose job asked for one, so that there
// is one small program to install and to have in memory.
//
// On disk it owns, in that directory: state, exit, stdout.fifo, stderr.fifo, shim.lock.
//
// Invariants: the state is on disk before the program starts; a stalled or dead log reader never blocks the task
// for longer than a second and never kills it; what is thrown away is counted; nothing of the task outlives its init.
//
// There is one shim per task, so its memory counts: it keeps to one goroutine, one poll(2) loop, few imports
// and no allocation while nothing happens.
package main
