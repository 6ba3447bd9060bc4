// Package mpssim is a stand-in for NVIDIA's nvidia-cuda-mps-control, daemon and program, as its documentation describes
// them: the daemon writes its process number into its pipe directory, the program passes on one command per line.
// It bounds nothing and serves no client.
package mpssim
