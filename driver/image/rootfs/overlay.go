package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlay says what to mount where. All paths are absolute and the caller's own.
type Overlay struct {
	LayersDir string   // holds all layers, never a mount point itself
	Layers    []string // paths below LayersDir, topmost first
	Upper     string   // writable, owned by the range's first IDs
	Work      string   // on the same file system as Upper
	Target    string   // an empty directory
	Scratch   string   // a directory that only root may enter, for kernels before 6.13
	IDs       Range
	Spaces    *Spaces // remembers user namespaces; may be nil
}

const (
	attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	flags = unix.MS_NOSUID | unix.MS_NODEV
	// options hold for both ways to mount. redirect_dir and metacopy would let the writable layer point into
	// the lower ones by attributes; index wants a lower layer to have one upper.
	options = "redirect_dir=off,metacopy=off,index=off,xino=off,volatile"
)

// Mount mounts the overlay on its target.
func (o *Overlay) Mount() error {
	tree, err := o.lowerTree()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	lower, err := openAll(tree, o.Layers)
	if err != nil {
		return err
	}
	defer lower.close()
	err = o.mountByFD(lower)
	if err == nil || !unsupported(err) {
		return err
	}
	return o.mountByPath(tree)
}

// lowerTree opens the directory of all layers, as a detached id-mapped clone if there is a range.
func (o *Overlay) lowerTree() (int, error) {
	if o.IDs.None() {
		fd, err := unix.Open(o.LayersDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return fd, os.NewSyscallError("open", err)
	}
	ns, err := o.Spaces.Open(o.IDs)
	if err != nil {
		return -1, err
	}
	defer func() { _ = ns.Close() }()
	tree, err := unix.OpenTree(unix.AT_FDCWD, o.LayersDir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("cannot clone the layers' mount: %w", os.NewSyscallError("open_tree", err))
	}
	attr := unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY | attrs,
		Userns_fd: uint64(ns.Fd()),
		// What the host does later must not reach the clone, nor the other way round.
		Propagation: unix.MS_PRIVATE,
	}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if err != nil {
		_ = unix.Close(tree)
		return -1, fmt.Errorf("cannot id-map the layers (Linux 5.19 and a file system such as ext4, xfs or btrfs are needed): %w",
			os.NewSyscallError("mount_setattr", err))
	}
	return tree, nil
}

// fds are open layers, topmost first.
type fds []int

func openAll(tree int, names []string) (fds, error) {
	var out fds
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for _, name := range names {
		fd, err := unix.Openat2(tree, name, &how)
		if err != nil {
			out.close()
			return nil, fmt.Errorf("cannot open layer %s: %w", name, os.NewSyscallError("openat2", err))
		}
		out = append(out, fd)
	}
	return out, nil
}

func (f fds) close() {
	for _, fd := range f {
		_ = unix.Close(fd)
	}
}

// errOld marks failures that an older kernel explains.
type errOld struct{ error }

func (e errOld) Unwrap() error { return e.error }

func unsupported(err error) bool {
	var old errOld
	return errors.As(err, &old)
}

// mountByFD hands the layers over as descriptors: no path is resolved twice, no page size limits their
// number (overlayfs takes 500), and the clone is attached nowhere.
func (o *Overlay) mountByFD(lower fds) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return errOld{fmt.Errorf("cannot use overlayfs (modprobe overlay): %w", os.NewSyscallError("fsopen", err))}
	}
	defer func() { _ = unix.Close(fs) }()
	for _, fd := range lower {
		err = unix.FsconfigSetFd(fs, "lowerdir+", fd)
		if err != nil {
			return errOld{os.NewSyscallError("fsconfig", err)}
		}
	}
	err = o.configure(fs)
	if err != nil {
		return fmt.Errorf("cannot set up the overlay%s: %w", kernelSays(fs), err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("cannot mount the overlay: %w", os.NewSyscallError("fsmount", err))
	}
	defer func() { _ = unix.Close(mnt) }()
	err = unix.MoveMount(mnt, "", unix.AT_FDCWD, o.Target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("cannot attach the overlay: %w", os.NewSyscallError("move_mount", err))
	}
	return nil
}

func (o *Overlay) configure(fs int) error {
	settings := [][2]string{{"upperdir", o.Upper}, {"workdir", o.Work}, {"source", "pangaea"}}
	for opt := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(opt, "=")
		settings = append(settings, [2]string{key, value})
	}
	for _, s := range settings {
		var err error
		if s[1] == "" {
			err = unix.FsconfigSetFlag(fs, s[0])
		} else {
			err = unix.FsconfigSetString(fs, s[0], s[1])
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", s[0], os.NewSyscallError("fsconfig", err))
		}
	}
	return os.NewSyscallError("fsconfig", unix.FsconfigCreate(fs))
}

// kernelSays reads the file system context's own message, which names the culprit.
func kernelSays(fs int) string {
	buf := make([]byte, 1024)
	n, err := unix.Read(fs, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[:n])) + ")"
}

// mountByPath serves kernels whose overlayfs takes no descriptors: the clone is attached below Scratch for
// a moment, and its layers are named through /proc/self/fd, short enough for more than 200 of them in
// mount(2)'s one page.
func (o *Overlay) mountByPath(tree int) error {
	if !o.IDs.None() {
		at, err := os.MkdirTemp(o.Scratch, "lower-")
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(at) }()
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("cannot attach the layers: %w", os.NewSyscallError("move_mount", err))
		}
		defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	}
	lower, err := openAll(tree, o.Layers)
	if err != nil {
		return err
	}
	defer lower.close()
	names := make([]string, len(lower))
	for i, fd := range lower {
		names[i] = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	data := "lowerdir=" + strings.Join(names, ":") + ",upperdir=" + escape(o.Upper) + ",workdir=" + escape(o.Work) + "," + options
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("cannot mount an image of %d layers on this kernel: use Linux 6.13 or fewer layers", len(lower))
	}
	err = unix.Mount("pangaea", o.Target, "overlay", flags, data)
	if err != nil {
		return fmt.Errorf("cannot mount the overlay: %w", os.NewSyscallError("mount", err))
	}
	return nil
}

// escape keeps commas and colons of the operator's own paths from ending an option.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(filepath.Clean(path))
}

// CanMap shows whether the owners of files in dir can be shifted into a range, by doing it to a clone of dir's mount
// that is attached nowhere.
func CanMap(dir string, r Range) error {
	tree, err := (&Overlay{LayersDir: dir, IDs: r}).lowerTree()
	if err != nil {
		return err
	}
	return unix.Close(tree)
}
