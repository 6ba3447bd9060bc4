// Package registry fetches manifests and blobs from OCI registries.
//
// The handshake (ping, basic and bearer authentication, token refresh) is go-containerregistry's; the
// requests are made here, because a pull needs what that library does not give: a limit on every answer
// that is read into memory, digest and size checked before anything is parsed, a blob stream that stalls
// for no longer than allowed and goes on where it was cut off.
//
// Plain HTTP is spoken only to the registries that the operator lists; loopback and private addresses
// are no exception, and neither is a redirect or a token server. Credentials go to the registry they
// are meant for and appear in no error and no log.
package registry
