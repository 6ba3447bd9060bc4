package statetest

import "math/rand/v2"

// candidate is a port outside of Nomad's dynamic range (20000 to 32000) and of Linux's ephemeral one (from 32768).
func candidate() int { return 15000 + rand.IntN(4900) } //nolint:gosec // a port need not be secret
