// Package archive reads images from the local disk: OCI layouts, as directories or tar files, and the
// tar files of "docker save".
//
// A job may name the path, so everything is opened beneath an os.Root that the caller vouches for;
// symbolic links cannot lead out of it. A tar file is indexed once and its members read in place,
// nothing of it is extracted. What is read into memory is bounded, digests and sizes are checked before
// anything is parsed.
package archive
