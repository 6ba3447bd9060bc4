// Package nvml reads GPUs through NVIDIA's management library and is the only package that touches it.
//
// It answers in four depths, each one call sequence on one GPU: [Device.Identity] (who is it), [Device.Traits] (what can
// it do), [Device.Vitals] (is it well) and [Sampler.Sample] (what is it doing). What can be is asked in batches of field values:
// a call may cost the driver from ten microseconds to ten milliseconds. Every value is a [Reading], which may be
// absent; every failure is a [Failure], which names the call. A GPU that does not support a call is not sick, and a GPU
// that fails one never hides what another can tell.
//
// Calls can hang for ever in the kernel, and no context ends them. So every GPU belongs to one goroutine of the
// caller's, and a [Trace] tells anyone else what that goroutine is waiting for and since when.
//
// Symbols are looked up before their first use: go-nvml binds lazily, and a call that an older driver's library lacks
// would end the process, not return an error. For the same reason a process cannot change to another copy of the library: its functions
// stay bound to the first. After a driver upgrade the process must be replaced, see [Library.Stale].
package nvml
