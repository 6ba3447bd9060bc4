// Package rootfs mounts a task's root file system: an overlay of read-only layers below and one writable
// directory on top, its owners shifted into the task's user namespace.
//
// The layers stay owned as the image has them. One detached id-mapped clone of the layers' directory
// (open_tree, mount_setattr) gives all lower directories of a mount; nothing of it is ever visible in the
// host's mount table where the kernel takes the overlay's layers as descriptors (6.13), and overlayfs
// keeps private clones, so that nothing has to be undone. The writable directory needs no mapping: it
// belongs to the task's own range, so that not even a set-user-ID file in it speaks for the host's root.
//
// The overlay is mounted nosuid, nodev and volatile (Linux 5.10): a writable layer does not outlive its
// task, so syncing it, on every fsync and again on unmount, would be waste.
//
// Needs Linux 5.19 for id-mapped layers; before 6.13 the clone is attached to a private directory for
// the moment of the mount.
package rootfs
