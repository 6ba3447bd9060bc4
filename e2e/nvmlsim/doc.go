// Package nvmlsim is NVIDIA's management library without NVIDIA: a C library with libnvidia-ml.so.1's ABI that is loaded
// exactly as the real one, and reads what the machine's GPUs are doing from a text file.
//
// A test builds the library once ([Build]), writes a [State] ([WriteState]) and points the program under test at the
// library. It then plays the machine: it rewrites the file while the program runs, and the next call sees it. GPUs fall
// off the bus, calls fail or hang ([Fault]), Xid events arrive, processes come and go, drivers are upgraded. No file
// means no driver.
//
// [MakeDriverRoot] makes what a host's driver installation looks like (device nodes, libraries, nvidia-smi), for what
// injects GPUs into sandboxes. Its libnvidia-ml.so carries the state inside, so that a program in a sandbox that was
// handed that library sees just the GPUs whose device nodes it was given.
//
// State is found, in this order: NVMLSIM_STATE in the environment; the path that MakeDriverRoot put in the library;
// nvmlsim.state beside the library. It is a support package for tests and demonstrations: no product code imports it.
package nvmlsim
