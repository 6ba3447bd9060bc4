// Package device is Pangaea's device plugin for Nomad: NVIDIA GPUs as "nvidia/gpu", with the attributes that HashiCorp's
// plugin gives them and more, and the truth about each one's health.
//
// One goroutine, the monitor, looks at all GPUs every few seconds and publishes what it found as an immutable [snapshot].
// Fingerprint sends snapshots that differ from what was sent before, Reserve and Stats read the last one. Each GPU has a
// [worker] that makes its NVML calls, so that one that hangs in the kernel holds up nobody else.
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
// Constructors and SetConfig do no I/O: Nomad starts every plugin several times at boot and gives up on any error.
package device
