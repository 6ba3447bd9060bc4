package driver

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"pangaea/driver/sandbox"
)

// nvidiaMajor is that of NVIDIA's GPUs and their control node.
const nvidiaMajor = 195

// planDevices adds the nodes that other device plugins granted and those that the job names, which rules.go has judged.
// NVIDIA's are not taken from here: their one way in is the grant.
func planDevices(t *sandbox.Task, granted []*drivers.DeviceConfig, wanted []JobDevice) error {
	for _, d := range granted {
		err := planDevice(t, d.HostPath, d.TaskPath, d.Permissions)
		if err != nil {
			return err
		}
	}
	for _, d := range wanted {
		target, access := d.Path, d.Permissions
		if target == "" {
			target = d.HostPath
		}
		if access == "" {
			access = "rw"
		}
		err := planDevice(t, d.HostPath, target, access)
		if err != nil {
			return err
		}
	}
	return nil
}

func planDevice(t *sandbox.Task, source, target, access string) error {
	var st unix.Stat_t
	err := unix.Stat(source, &st)
	if err != nil {
		return fmt.Errorf("cannot read device %q: %w", source, err)
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	nvidias := strings.HasPrefix(path.Base(target), "nvidia") || strings.HasPrefix(path.Base(source), "nvidia")
	if nvidias || (kind == "c" && major == nvidiaMajor) {
		return fmt.Errorf("cannot pass on device %q: NVIDIA GPUs are granted by Pangaea's device plugin only", source)
	}
	t.Device = append(t.Device, sandbox.Device{
		Source: source, Target: path.Clean(target), Type: kind, Major: major, Minor: minor, Access: access,
	})
	return nil
}

// makeNodes gives the task nodes of its own for its devices: the host's belong to users and groups that the sandbox does
// not have. They lie where no user of the host gets, and what they open the device cgroup decides.
func (s *startup) makeNodes() error {
	if len(s.plan.Device) == 0 {
		return nil
	}
	dir := filepath.Join(s.dir, "dev")
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot make a place for the task's devices: %w", err)
	}
	var fs unix.Statfs_t
	err = unix.Statfs(dir, &fs)
	if err != nil || fs.Flags&unix.ST_NODEV != 0 {
		return fmt.Errorf("cannot make device nodes below %s: it is mounted nodev; set the driver's option state_dir to a place that is not", dir)
	}
	for i := range s.plan.Device {
		d := &s.plan.Device[i]
		kind := map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK}[d.Type]
		node := filepath.Join(dir, strconv.Itoa(i))
		err = unix.Mknod(node, kind|0o666, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
		if err == nil {
			err = os.Chmod(node, 0o666) //nolint:gosec // whatever our umask is; the device cgroup decides who may open it
		}
		if err != nil {
			return fmt.Errorf("cannot make a node for device %q: %w", d.Source, err)
		}
		d.Source = node
	}
	return nil
}
