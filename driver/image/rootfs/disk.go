package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// minDisk is about the least that mke2fs makes a usable file system of.
const minDisk = 4 << 20

// MountDisk makes a file system of a fixed size and mounts it at the directory at, which it makes. It is ext4 in
// a sparse file below dir, on a loop device that goes with the mount. The alternatives: a sized tmpfs would
// eat the task's memory limit, and project quotas need a file system that was made with them.
func MountDisk(ctx context.Context, dir, at string, size int64) error {
	file := filepath.Join(dir, "disk.img")
	err := format(ctx, file, max(size, minDisk))
	if err != nil {
		return fmt.Errorf("cannot make a disk of %d bytes for the writable layer: %w", size, err)
	}
	err = os.Mkdir(at, 0o700)
	if err != nil {
		return err
	}
	loop, err := attach(file)
	if err != nil {
		return fmt.Errorf("cannot attach a loop device for the writable layer: %w", err)
	}
	// The mount holds the device from here on; without it, closing frees the device (autoclear).
	defer func() { _ = loop.Close() }()
	// The journal would only guard what does not outlive the task anyway; noload is not needed as there is none.
	err = unix.Mount(loop.Name(), at, "ext4", unix.MS_NOSUID|unix.MS_NODEV, "discard")
	if err != nil {
		return fmt.Errorf("cannot mount the writable layer's disk: %w", os.NewSyscallError("mount", err))
	}
	return nil
}

// format runs mke2fs with an empty environment on a file that only root can reach.
func format(ctx context.Context, file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	closeErr := f.Close()
	if err = errors.Join(err, closeErr); err != nil {
		return err
	}
	tool, err := findTool("mke2fs")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal",
		"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", file)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	for _, full := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		// Its exit code does not say; without an environment, its words are those of the C locale.
		if err != nil && strings.Contains(strings.ToLower(string(out)), full.Error()) {
			err = full
		}
	}
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %.300s", err, out)
	}
	return nil
}

// findTool does not trust PATH, which an agent's environment sets.
func findTool(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		at := filepath.Join(dir, name)
		st, err := os.Stat(at)
		if err == nil && st.Mode().IsRegular() {
			return at, nil
		}
	}
	return "", fmt.Errorf("cannot find %s: install e2fsprogs", name)
}

// attach binds a free loop device to file. Another process may take the device between the two calls.
func attach(file string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = backing.Close() }()
	for range 64 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		_ = dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, os.NewSyscallError("LOOP_CONFIGURE", err)
		}
	}
	return nil, errors.New("all loop devices are taken")
}
