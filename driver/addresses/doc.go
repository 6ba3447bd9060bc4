// Package addresses gives a network namespace its addresses back.
//
// gVisor's network stack serves a task's network itself: on start it takes the addresses and with them the routes off
// the namespace's interfaces, and at the end it puts nothing back. The namespace however belongs to the allocation and
// outlives the task, whose next start, after a crash or on a signal, would find it without an address.
//
// On disk it owns nothing: a Network is JSON that the caller keeps.
package addresses
