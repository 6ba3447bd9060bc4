// Package tunnel is the one connection between a member agent and a gateway: TLS 1.3 with certificates on both sides,
// opened by the member, carrying any number of HTTP/1.1 exchanges in both directions over yamux streams.
//
// A member dials with [Run] or [Dial] and a gateway accepts with [Listen]; after that both hold a [Session] and the
// sides are equal: each serves an http.Handler on the streams that the other opens, and each has an http.RoundTripper
// that opens streams. Raw byte streams (exec websockets, TCP relays) are HTTP upgrades: [Session.OpenStream] on one
// side, [AcceptStream] on the other.
//
// Invariants: no byte of a peer's is read as HTTP before its certificate is verified against the current roots and
// its SPIFFE name is one that the other side expects; a session ends no later than the peer's certificate; a peer that
// stops answering is noticed within KeepAlive + WriteTimeout. The package stores nothing and knows nothing of Consul:
// certificates come from an [Identity].
package tunnel
