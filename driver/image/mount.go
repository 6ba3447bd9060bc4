package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pangaea/driver/image/rootfs"
)

// mountRecord is a task's reference on its image. It is written before the mount and deleted after it.
type mountRecord struct {
	ID     string
	Digest string
	Layers []string
	Time   time.Time
}

func checkID(id string) error {
	if id == "" || len(id) > 128 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("internal error: task id %.200q is not 1 to 128 of a-z, 0-9 and '-'", id)
	}
	return nil
}

// Mount mounts the image as the task's root file system and returns where. The mount keeps the image in the
// store, across restarts, until Unmount.
func (s *Store) Mount(ctx context.Context, r MountRequest) (string, error) {
	at, err := withRoom(ctx, s, func() (string, error) { return s.mount(ctx, r) })
	if err != nil {
		return "", fmt.Errorf("cannot mount root file system: %w", err)
	}
	return at, nil
}

func (s *Store) mount(ctx context.Context, r MountRequest) (string, error) {
	err := checkMount(r)
	if err != nil {
		return "", err
	}
	ids := rootfs.Range{UID: r.HostUID, GID: r.HostGID, Count: r.IDCount}
	o, err := s.reserve(r, ids)
	if err != nil {
		return "", err
	}
	err = s.assemble(ctx, r, o)
	if err != nil {
		undo := s.Unmount(r.ID)
		return "", errors.Join(err, undo)
	}
	return o.Target, nil
}

// Userns returns a user namespace that maps nothing but a task's range, for what else of the task's is mounted. The caller
// closes the file; nothing ever runs in the namespace, which is the same for all tasks of the range.
func (s *Store) Userns(uid, gid, count uint32) (*os.File, error) {
	return s.spaces.Open(rootfs.Range{UID: uid, GID: gid, Count: count})
}

func checkMount(r MountRequest) error {
	switch {
	case r.Image == nil:
		return errors.New("internal error: no image")
	case (r.HostUID == 0) != (r.HostGID == 0), r.HostUID != 0 && r.IDCount == 0:
		return errors.New("internal error: incomplete id range")
	case r.DiskBytes < 0:
		return errors.New("internal error: negative disk size")
	}
	return checkID(r.ID)
}

// reserve makes the task's directories and its record while GC is kept out.
func (s *Store) reserve(r MountRequest, ids rootfs.Range) (*rootfs.Overlay, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range r.Image.Layers {
		if !validDigest(l) || !s.whole(hexOf(l)) {
			return nil, fmt.Errorf("%w: layer %.19s of %s is gone, pull it again", ErrNotPresent, l, printable(r.Image.Ref))
		}
	}
	dir := s.path("tasks", r.ID)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: unmount %s first", ErrMounted, r.ID)
	}
	if err != nil {
		return nil, err
	}
	o := &rootfs.Overlay{
		LayersDir: s.path("layers"), Layers: lowers(r.Image.Layers), Scratch: dir, IDs: ids, Spaces: &s.spaces,
		Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Target: filepath.Join(s.rootfsDir(r.ID), "rootfs"),
	}
	err = s.writeJSON(filepath.Join(dir, "record.json"),
		mountRecord{ID: r.ID, Digest: r.Image.Digest, Layers: r.Image.Layers, Time: time.Now()})
	if err != nil {
		return nil, errors.Join(err, s.Unmount(r.ID))
	}
	return o, nil
}

// lowers gives the layers' directories as overlayfs wants them, topmost first.
func lowers(layers []string) []string {
	if len(layers) == 0 {
		return []string{"empty/fs"}
	}
	var out []string
	for _, l := range slices.Backward(layers) {
		out = append(out, hexOf(l)+"/fs")
	}
	return out
}

func (s *Store) assemble(ctx context.Context, r MountRequest, o *rootfs.Overlay) error {
	if r.DiskBytes > 0 {
		disk := filepath.Join(o.Scratch, "disk")
		err := rootfs.MountDisk(ctx, o.Scratch, disk, r.DiskBytes)
		if err != nil {
			return err
		}
		o.Upper, o.Work = filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	}
	err := os.Mkdir(o.Upper, 0o755)
	if err == nil {
		err = os.Mkdir(o.Work, 0o700)
	}
	if err == nil {
		err = os.Chown(o.Upper, int(r.HostUID), int(r.HostGID))
	}
	if err == nil {
		err = s.makeView(r.ID, r.HostUID, r.HostGID)
	}
	if err != nil {
		return err
	}
	err = o.Mount()
	if err != nil {
		return err
	}
	err = makeTargets(o.Target, r)
	if err != nil || !r.ReadOnly || len(r.Targets) == 0 {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(unix.AT_FDCWD, o.Target, 0, &attr))
}

// makeTargets makes mount points. os.Root keeps to the new root file system whatever links the image has
// on the way; a link that leaves it is an error, not a way out.
func makeTargets(at string, r MountRequest) error {
	if len(r.Targets) == 0 {
		return nil
	}
	root, err := os.OpenRoot(at)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, t := range r.Targets {
		rel, err := filepath.Rel("/", filepath.Clean(t))
		if err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("internal error: mount point %.80q is not an absolute path", t)
		}
		err = makeTarget(root, rel, int(r.HostUID), int(r.HostGID))
		if err != nil {
			return fmt.Errorf("cannot make mount point %.80q in the image: %w", t, err)
		}
	}
	return nil
}

// makeTarget is MkdirAll that gives what it makes to the task's root user.
func makeTarget(root *os.Root, rel string, uid, gid int) error {
	if rel == "." {
		return nil
	}
	err := root.Mkdir(rel, 0o755)
	if isNotExist(err) {
		err = makeTarget(root, filepath.Dir(rel), uid, gid)
		if err == nil {
			err = root.Mkdir(rel, 0o755)
		}
	}
	if err == nil {
		return root.Lchown(rel, uid, gid)
	}
	st, statErr := root.Stat(rel)
	if statErr == nil && st.IsDir() {
		return nil
	}
	return err
}
