// Package layer turns one compressed image layer, a stream that a stranger wrote, into a directory that
// overlayfs can use as a lower layer.
//
// The stream is read once: its digest and size, its decompression, the digest of what comes out and the
// extraction run side by side, and nothing counts as unpacked before both digests are right.
//
// Invariants: no path of the archive is ever resolved outside the directory (openat2 with
// RESOLVE_IN_ROOT and RESOLVE_NO_XDEV, then only descriptors); no device node is made but the
// 0:0 nodes that overlayfs reads as whiteouts; no extended attribute but user.* is taken over, so that
// trusted.overlay.* and security.capability can only come from us; bytes, entries, depth and the
// compression ratio are bounded. Set-user-ID bits stay: the tree lies below a directory that only root
// may enter and is only ever mounted nosuid.
//
// The caller owns the directory, throws it away on any error, and renames it into place on success.
package layer
