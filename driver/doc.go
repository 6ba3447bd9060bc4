// Package driver is Pangaea's task driver for Nomad: driver = "runc" runs a container image as a task, in a sandbox
// that treats the tenant as hostile, with the GPUs that Nomad granted and no others.
//
// The plugin process decides and the programs beside it act: image pulls and mounts (driver/image), the OCI
// specification (driver/sandbox), the granted GPUs (driver/gpu), and starting and finding tasks (driver/supervisor),
// whose shim outlives this process, the Nomad client and an upgrade of both.
//
// On disk it owns state_dir: what the image store keeps there, gpu/ (prepared driver files) and tasks/<id>/ (one
// directory per task: task.json, its hosts, resolv.conf and hostname files, and the supervisor's records). A task's
// range of user identifiers is claimed in /run/pangaea/idranges, and its GPUs are noted in /run/pangaea/gpus (driver/hold);
// all drivers of a host share both. In the host's network it owns the interfaces and the nftables table that driver/egress describes.
//
// Invariants: what a job may loosen is what the operator allowed, decided in one table (rules.go); the grant of GPUs
// is read from Nomad's DeviceEnv only; SetConfig and constructors do no I/O and do not fail, because Nomad's agent
// would not start: a bad option makes the driver unhealthy with the reason; a failed start leaves nothing behind;
// a task that Nomad may still recover is never swept away.
package driver
