// Package metrics writes what GPUs are doing as Prometheus reads it, under the names that NVIDIA's dcgm-exporter has made
// common, so that dashboards made for that one work. It holds no state and reads nothing: callers hand in samples.
//
// A GPU in use bears the allocation and task that use it. They come from the cgroup of the processes on the GPU, which
// no task can choose, and never from what a task says of itself.
package metrics
