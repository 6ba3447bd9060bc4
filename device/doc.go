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
// Reserve returns environment variables, and nothing else but where MPS shares a GPU. Nomad loses devices and mounts when a task
// restarts after its agent did, and lets a plugin's mounts wipe the task's volumes; variables survive and reach the driver where a
// task cannot forge them.
//
// Whose a device is, the plugin reads where Pangaea's driver notes it (package holder): Nomad does not tell.
//
// # Sharing
//
// Tasks share a GPU by turns (allow_replicas), a GPU that is split by hardware (MIG), or at once by CUDA's multi-process service:
//
//	allow_replicas = 4
//	sharing {
//	  mode           = "mps"
//	  pipe_directory = "/tmp/nvidia-mps"
//	}
//
// MPS is for tasks of other drivers (docker, exec, raw_exec) whose processes run as one user. Its server serves the clients of
// one user ID and lets those of another wait until they have all gone, and each task of Pangaea's driver has user IDs of its own,
// so that no two would ever share: that driver refuses such a grant. In MPS's multi-user mode all clients count as root's, of a
// server outside every sandbox, and NVIDIA says to use it only where users need no isolation from each other and from root.
//
// The operator starts the control daemon as root on the host, puts the GPUs into the compute mode EXCLUSIVE_PROCESS, in which
// whoever is no client gets no context, and has the daemon's program on the PATH of Nomad's client. The plugin starts no daemon.
// It tells each one that it finds the bounds of a share, memory/N and 100/N percent of the threads, for the server to enforce;
// until that is done, while no daemon runs, and in another compute mode, the shares are unhealthy, with what to run. It reads
// the percentage back; a daemon that hangs later, or that somebody else tells other bounds, it does not notice.
//
// What MPS does not do:
//   - A client's fault on the GPU ends the work of the others.
//   - The bounds hold for each process. A task of several has each one's.
//   - Of 48 clients of a GPU the next is turned away, however few tasks they are of.
//   - It keeps nobody's data from others as sandboxes do; and this plugin can't tell namespaces apart for drivers other than
//     ours. Share so among those who trust each other.
//   - MIG devices are not shared by it (nor by NVIDIA's Kubernetes plugin), nor are GPUs before Volta.
//
// With mount = true reservations carry the pipe directory as a mount too, which docker heeds (such tasks need ipc_mode = "host"
// as well, as NVIDIA asks), exec does, and raw_exec does not need. Nomad 1.11.3 starts a task the first time with a device
// plugin's mounts in the place of those of its volume_mount blocks, and after a restart of its client without the plugin's. So
// leave it off where jobs use both, and have them mount it themselves.
//
// Nothing of MPS was ever run on hardware.
//
// Constructors and SetConfig do no I/O: Nomad starts every plugin several times at boot and gives up on any error.
package device
