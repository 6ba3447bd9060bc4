// Package e2e holds the pool's promises as tests: real Nomad clusters, real Consul, real images in real sandboxes and
// the unmodified nomad CLI, on one machine.
//
// All tests share one pool of three countries (package devpool); each leaves it as it found it. They need root, and
// the programs that "make build tools" puts into the directory named by PANGAEA_BIN.
package e2e
