// Package failpoint lets a test hold a program of the driver's at a named place, to kill or stop it or another just
// there. What is built without the tag "faults", as all that is released is, has no failpoints: Here does nothing.
//
// A test arms a failpoint by a directory, below the driver's state directory, that is named after the place and the
// task. The first process to come by takes it, by renaming it, writes its pid into it and waits in the very goroutine
// that came by, so there is no moment at which it might be missed.
package failpoint
