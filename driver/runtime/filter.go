//go:build seccomp

package main

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

// trim leaves out of a filter the names that this machine's own architecture has no number for, such as those of
// 32-bit programs. They would allow nothing, but the sandbox's init would spend a third of its time on them. A filter
// that names further architectures is left as it is.
func trim(filter *specs.LinuxSeccomp) {
	if filter == nil || len(filter.Architectures) > 1 {
		return
	}
	for i := range filter.Syscalls {
		rule := &filter.Syscalls[i]
		rule.Names = slices.DeleteFunc(rule.Names, func(name string) bool {
			number, err := libseccomp.GetSyscallFromName(name)
			return err != nil || number < 0
		})
	}
	filter.Syscalls = slices.DeleteFunc(filter.Syscalls, func(rule specs.LinuxSyscall) bool { return len(rule.Names) == 0 })
}
