// Package pool holds the words that every part of the federation shares: what a member offers, what a placement is,
// and the messages that a gateway and a member agent exchange over the tunnel.
//
// It owns no state and does no I/O. Every type here is JSON on the wire; a field once released keeps its name and
// meaning, and a reader ignores fields it does not know, so that gateways and members of different versions can meet.
package pool
