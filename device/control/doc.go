// Package control is how a machine's owner and the device plugin on it speak to each other: through a directory that only
// root can use, so that it works with Nomad stopped, from any shell, and leaves a trace that a human can read.
//
//	/var/lib/pangaea/device/      0700, the plugin's control_dir
//	    status.json               what the plugin knows; it writes, others read
//	    reclaim/GPU-8f6d....json  the owner wants this GPU for himself, for as long as the file is there
//	    reclaim/all.json          he wants all of them
//	    places.json               which NUMA node and NVLink clique each GPU's group is named after
//	    lock                      held by the plugin that writes status.json, when several run on one machine
//
// The owner's side is [Dir.Reclaim], [Dir.Release] and [Dir.Status]; the plugin's is [Dir.Reclaims] and [Dir.Publisher].
// Reclaims outlast reboots: a GPU goes back to the pool when its owner says so, and not before. The plugin looks for them every
// second or so; the status shows when it has taken one in (Reclaim is set in the GPU's entry) and whether tasks are
// still on the GPU.
//
// Everything fails towards the owner: a reclaim that cannot be read counts, and so does a directory that cannot. A directory that
// others than root could write to is refused, or any of them could take GPUs away.
package control
