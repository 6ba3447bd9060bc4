// Package node is one real Nomad for tests: a server and a client, each a process of its own, with our two plugins, on
// loopback addresses that nobody else uses.
//
// A Node owns one directory: configuration, logs, the agents' data, the driver's state and copies of our programs, so
// that a test may replace them. Whatever belongs to it on this machine is found by that directory's name or by an
// allocation's ID, which is how Close tells that nothing is left and how several nodes run side by side.
//
// Nothing here waits for a fixed time: every Await ends by an event of Nomad's or by the death of an agent, and gives
// up after minutes. A client that is down is not taken for lost unless Options.Server says so.
package node
