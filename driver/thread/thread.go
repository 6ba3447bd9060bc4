// Package thread runs what changes a thread for ever on a thread that ends afterwards.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Throwaway runs f, which changes its thread's namespaces or cgroups, on a thread that ends afterwards, and waits for it: a
// thread that is not unlocked ends with its goroutine. The process's first thread never does, and would stand for the
// whole process in the task's network, and keep that from going; so it is held while another one is used.
func Throwaway(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		Throwaway(f)
		runtime.UnlockOSThread()
	}()
	<-done
}
