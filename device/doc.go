// Package device is Pangaea's device plugin for Nomad: NVIDIA GPUs as "nvidia/gpu", with the attributes that HashiCorp's
// plugin gives them and more, and the truth about each one's health.
//
// One goroutine, the monitor, looks at all GPUs every few seconds and publishes what it found as an immutable [snapshot].
// Fingerprint sends snapshots that differ from what was sent before, Reserve and Stats read the last one. Each GPU has a
// [worker] that makes its NVML calls, so that one that hangs in the kernel holds up nobody else. What changes from second to
// second is asked each time, what an owner may change every ten seconds.
//
// The stream to Nomad never ends and never carries an error: at either, Nomad drops every GPU until its agent is
// restarted. Whatever goes wrong is a GPU's state with a reason. A GPU once seen stays listed, under the same name, for
// as long as the plugin lives: Nomad would double-book a busy GPU whose group is renamed.
//
// The machine's owner speaks to the plugin through package control: "pangaea gpu" writes reclaims there, and the plugin a
// status of every GPU that needs no Nomad to read.
//
// Reserve returns environment variables and nothing else. Nomad loses devices and mounts when a task restarts after its
// agent did, and lets a plugin's mounts wipe the task's volumes; variables survive and reach the driver where a task cannot forge them.
//
// Whose a device is, the plugin reads where Pangaea's driver notes it (package holder): Nomad does not tell.
//
// Tasks share a GPU by turns (allow_replicas), or a GPU that is split by hardware (MIG). CUDA's multi-process service (MPS),
// which would bound each one's memory and cores, is refused. It serves the clients of one user ID and lets those of another
// wait until they have all gone; each task of Pangaea's driver has user IDs of its own, so that no two would ever share. In its
// multi-user mode all clients count as root's, of a server that runs as root on the host, outside every sandbox, and NVIDIA
// says to use it only where users need no isolation from each other and from root. A client's fault on the GPU ends the
// others', and nothing makes a tenant's program be a client at all.
//
// Constructors and SetConfig do no I/O: Nomad starts every plugin several times at boot and gives up on any error.
package device
