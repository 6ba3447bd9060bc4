// Package mps is how the device plugin speaks to CUDA's multi-process service, as NVIDIA documents it
// (docs.nvidia.com/deploy/mps, nvidia-cuda-mps-control(1)).
//
// The control daemon is the operator's: this package starts and ends none. Whether one runs is read from the file that it
// documents, nvidia-cuda-mps-control.pid in its pipe directory; its sockets there outlive it. What it is to do it is told
// through the program nvidia-cuda-mps-control, one command on the standard input of each run.
//
// The bounds hold for each client, which is a process with a CUDA context: a task of three such processes may use three times
// the memory of one. Existing clients keep what they began with.
//
// None of this was ever run against NVIDIA's program, only against a stand-in that behaves as the documentation says.
package mps
