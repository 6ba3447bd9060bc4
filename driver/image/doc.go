// Package image is the driver's image store: it pulls images from registries, layouts and archives, keeps
// their layers unpacked and shared, and mounts them as tasks' root file systems. There is no daemon: every
// method works on the disk, and the store is whole after a kill -9 at any instant.
//
// On disk, below the root:
//
//	images/            0700, all that follows
//	  layers/<hex>/fs  one unpacked layer by diff ID; appears by rename, never changes
//	  images/<hex>     one image by manifest digest: config and layers; its mtime is its last use
//	  refs/<hex>       which digest a reference meant when it was last pulled
//	  tasks/<id>/      a mount's record (its reference on the image) and writable layer
//	  partial/<hex>    what has come of a large blob, for the next try; never trusted
//	  tmp/             half-made things, each locked by the process that makes it, swept at Open
//
// The mounts are at /run/pangaea-rootfs/<hash of the root>/<id>/rootfs, where a task's mapped user can reach
// its own whatever the modes above the store are.
//
// Invariants: what layers, images and refs hold is complete and verified; a layer that power loss might
// have hurt (unpacked in another boot, never synced) counts as missing. A layer goes only after every image and
// mount that uses it. Nothing is deleted at or below a path that still has a mount.
//
// Images are shared by all jobs of the host, as with Docker: who may name a digest or a cached tag may run
// it with policy "missing". The policy "always" asks the registry, with the job's own credentials, each time.
package image
