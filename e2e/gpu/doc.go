// Package gpu shows on a real Nomad node with eight simulated GPUs what the device plugin promises: health reaches Nomad
// with its reason, jobs avoid a sick GPU and come back to a well one, the owner comes first, and a task has exactly the
// GPUs that it was granted, whatever it says of itself and whatever was restarted.
package gpu
