package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounted lists the mount points at and below the directories, deepest last; a path that is mounted twice is there
// twice. The directories must be free of symbolic links.
func Mounted(dirs ...string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 {
			continue
		}
		at := unescape(fields[4])
		if slices.ContainsFunc(dirs, func(dir string) bool { return at == dir || strings.HasPrefix(at, dir+"/") }) {
			found = append(found, at)
		}
	}
	slices.Sort(found)
	return found, lines.Err()
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			n, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
			if err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// UnmountAll unmounts whatever is mounted at and below the directories, and fails unless nothing is left: only then may
// the caller delete anything there, since a removal that walks into a bind mount deletes the host's files.
func UnmountAll(dirs ...string) error {
	for range 10 {
		at, err := Mounted(dirs...)
		if err != nil {
			return fmt.Errorf("cannot list mounts: %w", err)
		}
		if len(at) == 0 {
			return nil
		}
		for _, path := range slices.Backward(at) {
			err = Unmount(path)
			if err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("cannot unmount %s: new mounts keep appearing", strings.Join(dirs, ", "))
}

// Unmount detaches a mount that is busy: its users, a dying container's processes, keep it alive, and it is
// gone for everybody else. It is content if nothing is mounted there.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount %s: %w", path, os.NewSyscallError("umount2", err))
	}
	return nil
}
