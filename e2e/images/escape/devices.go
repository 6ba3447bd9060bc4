package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nodes are devices that no task may make or open. Opening a watchdog would start it, so it is not among them.
func nodes() []string {
	return []string{
		"mem c 1 1", "kmem c 1 2", "port c 1 4", "kmsg c 1 11", "tty1 c 4 1", "console c 5 1", "vcs c 7 0", "event0 c 13 64",
		"userfaultfd c 10 126", "hwrng c 10 183", "vfio c 10 196", "tun c 10 200", "fuse c 10 229", "kvm c 10 232",
		"btrfs-control c 10 234", "mapper c 10 236", "loop-control c 10 237", "vhost-net c 10 238", "nvidia0 c 195 0",
		"nvidiactl c 195 255", "msr c 202 0", "card0 c 226 0", "loop0 b 7 0", "sda b 8 0", "vda b 254 0", "nvme0n1 b 259 0",
	}
}

// devices are attempts to make device nodes, to open them, and to use terminals.
func devices() []attempt {
	var list []attempt
	for _, node := range nodes() {
		list = append(list, attempt{"make and open " + node, func() error {
			fd, err := openNew(node, unix.O_RDONLY|unix.O_NONBLOCK)
			if err == nil {
				return unix.Close(fd)
			}
			// It may have no driver, or be somebody's already; the answer is its driver's, then.
			return past(err, unix.ENXIO, unix.ENODEV, unix.EBUSY, unix.EIO, unix.ENOMEDIUM)
		}})
	}
	return append(list, []attempt{
		{"open a node in /dev", func() error {
			own := []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "watchdog", "watchdog0"}
			return walk("/dev", unix.O_RDONLY, func(path string, d fs.DirEntry) bool {
				return d.Type()&fs.ModeDevice != 0 && !slices.Contains(own, d.Name()) && !strings.HasPrefix(path, "/dev/pts/")
			})
		}},
		{"open a disk of the host's for writing", func() error {
			disks, err := os.ReadFile("/proc/partitions")
			err = errors.Join(err, errors.New("none is open to us"))
			for line := range strings.Lines(string(disks)) {
				var major, minor int
				_, scanErr := fmt.Sscan(line, &major, &minor)
				if scanErr != nil {
					continue // the heading
				}
				_, openErr := openNew(fmt.Sprint("disk b ", major, minor), unix.O_WRONLY) // without a write
				if openErr == nil {
					return nil
				}
			}
			return err
		}},
		{"mount by fuse", func() error {
			fd, err := openNew("fuse c 10 229", unix.O_RDWR)
			if err != nil {
				return err
			}
			apart()
			return unix.Mount("escape", scratch(), "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
		}},
		{"type at the terminal (TIOCSTI)", func() error {
			fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0)
			return errors.Join(err, call(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, text("x")))
		}},
		{"use the console (TIOCLINUX)", func() error {
			const shiftState = 6 // which is told and not changed
			fd, err := openNew("tty1 c 4 1", unix.O_RDWR)
			return errors.Join(err, call(unix.SYS_IOCTL, uintptr(fd), unix.TIOCLINUX, memory(shiftState)))
		}},
	}...)
}

// openNew makes a node and opens it.
func openNew(node string, flags int) (int, error) {
	var name string
	var kind rune
	var major, minor uint32
	_, err := fmt.Sscanf(node, "%s %c %d %d", &name, &kind, &major, &minor)
	if err != nil {
		return -1, err
	}
	path := filepath.Join(scratch(), name)
	mode := map[rune]uint32{'b': unix.S_IFBLK, 'c': unix.S_IFCHR}[kind]
	err = unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor)))
	if err != nil {
		return -1, err
	}
	return unix.Open(path, flags|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

var errOpened = errors.New("opened")

// walk opens what is chosen below a directory, and writes nothing, until something opens.
func walk(dir string, flags int, chosen func(string, fs.DirEntry) bool) error {
	count := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !chosen(path, d) {
			return nil //nolint:nilerr // what can't be listed can't be opened either
		}
		count++
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil //nolint:nilerr // it is the wanted answer
		}
		var what unix.Stat_t
		err = unix.Fstat(fd, &what)
		_ = unix.Close(fd)
		if err != nil || what.Rdev == unix.Mkdev(1, 3) {
			return err // a mask is a device that takes everything
		}
		return fmt.Errorf("%w %s", errOpened, path)
	})
	if errors.Is(err, errOpened) {
		return reached(err.Error())
	}
	return errors.Join(err, fmt.Errorf("none of %d opens", count))
}
