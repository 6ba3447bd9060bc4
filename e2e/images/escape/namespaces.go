package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// namespaces are attempts to make namespaces, whose owner has all capabilities in them, and to enter others.
func namespaces(host int) []attempt {
	var list []attempt
	for _, kind := range []struct {
		name string
		flag uintptr
	}{
		{"cgroup", unix.CLONE_NEWCGROUP},
		{"ipc", unix.CLONE_NEWIPC},
		{"mnt", unix.CLONE_NEWNS},
		{"net", unix.CLONE_NEWNET},
		{"pid", unix.CLONE_NEWPID},
		{"user", unix.CLONE_NEWUSER},
		{"uts", unix.CLONE_NEWUTS},
		{"time", unix.CLONE_NEWTIME},
	} {
		if kind.flag != unix.CLONE_NEWTIME { // which is a signal's number to clone
			list = append(list, attempt{"clone " + kind.name, func() error {
				return cloned(unix.SYS_CLONE, kind.flag|uintptr(unix.SIGCHLD), 0, unix.SYS_GETUID)
			}})
		}
		list = append(
			list,
			attempt{"unshare " + kind.name, func() error { return forked(unix.SYS_UNSHARE, kind.flag) }},
			// Filters can't look into its flags, which are in memory.
			attempt{"clone3 " + kind.name, func() error {
				return cloned(unix.SYS_CLONE3, memory(uint64(kind.flag), 0, 0, 0, uint64(unix.SIGCHLD)), 64, unix.SYS_GETUID)
			}},
			// Nobody may enter the user namespace that he is in, but is told so only after that he may enter it.
			attempt{"enter the " + kind.name + " of process 1", func() error { return past(enter(1, kind.name), unix.EINVAL) }},
		)
	}
	return append(list, []attempt{
		{"enter the mounts of the host's process", func() error { return enter(host, "mnt") }},
		{"enter the host's process by its descriptor", func() error {
			fd, err := unix.PidfdOpen(host, 0)
			return errors.Join(err, forked(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWNS|unix.CLONE_NEWNET))
		}},
	}...)
}

func enter(pid int, kind string) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return forked(unix.SYS_SETNS, uintptr(fd), 0)
}
