package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mounts are attempts to change what the task sees as its files, and to undo masks.
func (h *host) mounts() []attempt {
	list := h.mountCalls()
	for _, kind := range []string{"tmpfs", "proc", "sysfs", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs", "bpf", "securityfs", "binfmt_misc"} {
		list = append(list, attempt{"mount " + kind, func() error {
			apart()
			return unix.Mount(kind, scratch(), kind, 0, "")
		}})
	}
	return append(list, []attempt{
		{"open_tree", func() error { _, err := cloneTree(); return err }},
		{"move_mount", func() error {
			apart()
			tree, err := cloneTree()
			return errors.Join(err, unix.MoveMount(tree, "", unix.AT_FDCWD, scratch(), unix.MOVE_MOUNT_F_EMPTY_PATH))
		}},
		{"fsopen", func() error { _, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC); return err }},
		{"fsmount", func() error {
			fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
			err = errors.Join(err, unix.FsconfigCreate(fs))
			_, mountErr := unix.Fsmount(fs, 0, 0)
			return errors.Join(err, mountErr)
		}},
		{"fspick", func() error { _, err := unix.Fspick(unix.AT_FDCWD, "/proc", 0); return err }},
		{"mount_setattr", func() error {
			apart()
			return unix.MountSetattr(unix.AT_FDCWD, "/sys", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		}},
		{"fill in a cgroup's release_agent", func() error {
			apart()
			dir := scratch()
			var err error
			for _, controller := range []string{"rdma", "memory", "devices", "freezer"} { // the kernel's, or still free
				err = unix.Mount("cgroup", dir, "cgroup", 0, controller)
				if err == nil {
					return writable(dir + "/release_agent")
				}
			}
			return err
		}},
	}...)
}

func (h *host) mountCalls() []attempt {
	change := func(source, target string, flags uintptr) func() error {
		return func() error {
			apart()
			return unix.Mount(source, target, "", flags, "")
		}
	}
	// Where there is nothing to undo yet, and a process may, it is done first.
	undo := func(source, target string, how func() error) func() error {
		return func() error {
			apart()
			_ = unix.Mount(source, target, "", unix.MS_BIND, "")
			_ = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
			return how()
		}
	}
	unmount := func(target string, flags int) func() error {
		return func() error { return unix.Unmount(target, flags) }
	}
	return []attempt{
		{"bind the root", func() error { return change("/", scratch(), unix.MS_BIND|unix.MS_REC)() }},
		{"bind over /proc", change("/tmp", "/proc", unix.MS_BIND)},
		{"bind over a program", change(os.Args[0], os.Args[0], unix.MS_BIND)},
		{"move /dev/shm", func() error { return change("/dev/shm", scratch(), unix.MS_MOVE)() }},
		{"share mounts with others", change("", "/proc", unix.MS_SHARED)},
		{"make /sys writable", change("", "/sys", unix.MS_REMOUNT|unix.MS_BIND)},
		{"make /proc/sys writable", undo("/proc/sys", "/proc/sys", func() error {
			err := unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "")
			return errors.Join(err, writable("/proc/sys/kernel/core_pattern"))
		})},
		{"unmount a mask", undo("/dev/null", "/proc/timer_list", unmount("/proc/timer_list", 0))},
		{"unmount /proc/sys", undo("/proc/sys", "/proc/sys", unmount("/proc/sys", 0))},
		{"detach /sys", undo("", "", unmount("/sys", unix.MNT_DETACH))},
		{"detach /proc", undo("", "", unmount("/proc", unix.MNT_DETACH))},
		{"pivot_root", func() error { return past(unix.PivotRoot("/tmp/none", "/tmp/none"), unix.ENOENT) }},
		{"chroot and climb", h.climb},
	}
}

func cloneTree() (int, error) {
	return unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// climb leaves a root directory by another root directory below the one that the process stands in.
func (h *host) climb() error {
	err := unix.Chroot(scratch())
	if err != nil {
		return err
	}
	for range 64 {
		err = errors.Join(err, unix.Chdir(".."))
	}
	err = errors.Join(err, unix.Chroot("."))
	return errors.Join(err, h.holds(h.Canary))
}
