// Package relay carries the TCP of a gang's workers between members that cannot reach each other.
//
// A member agent opens one listener for each gang group that it runs ([Relay.Open]) and tells the workers its
// address. Each connection that a worker makes becomes a stream to the gateway, which finds the member that holds
// rank 0, whose agent dials the allocation. [Splice] joins two connections anywhere on that way and keeps half-closes
// apart, so that a protocol that ends its request by closing one direction works.
//
// Bounds: connections per listener, a time in which a far end must be reached, and an idle time. The package knows
// neither tunnels nor Nomad: how the far end is reached is a function that it is given.
package relay
