package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pangaea/driver/gpu"
	"pangaea/driver/image/rootfs"
	"pangaea/driver/sandbox"
)

// Finding is one line of "pangaea doctor": ok, warn or fail, what was seen, and what to do about it. It is an alias of a
// nameless type so that the device plugin's findings have the same type, though neither plugin knows the other.
type Finding = struct {
	Area    string `json:"area"`
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Seen    string `json:"seen"`
	Fix     string `json:"fix,omitempty"`
}

// What a finding's verdict can be.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "fail"
)

const inspectArea = "driver runc"

// Little room makes pulls fail and the garbage collector throw out images that are wanted again at once.
const (
	leastRoom   = 1 << 30
	wantedRoom  = 20 << 30
	leastInodes = 100_000
)

// memoryDir is a tmpfs, on which tasks' secrets lie.
const memoryDir = "/dev/shm"

// disk asks about the file system of the state directory. Tests stand in for it.
type disk struct {
	room func(dir string) (free, total, inodes uint64, err error)
	maps func(dir string) error
	stat func(dir string) (os.FileInfo, error)
}

func newDisk() disk {
	return disk{
		room: func(dir string) (free, total, inodes uint64, err error) {
			var fs unix.Statfs_t
			err = unix.Statfs(dir, &fs)
			size := uint64(fs.Bsize)
			return fs.Bavail * size, fs.Blocks * size, fs.Ffree, err
		},
		maps: func(dir string) error {
			return rootfs.CanMap(dir, rootfs.Range{UID: defaultIDStart, GID: defaultIDStart, Count: sandbox.IDRangeSize})
		},
		stat: os.Stat,
	}
}

// Inspect looks at everything that the driver needs of this machine, as configured. It changes nothing.
func (d *Driver) Inspect(ctx context.Context) []Finding {
	s := d.settings()
	p := newProbe(&d.runtimes)
	all := append(s.inspectNeeds(ctx, p), s.inspectRuntimes(ctx, p)...)
	all = append(all, s.inspectDisk(newDisk(), os.Geteuid())...)
	return append(all, s.inspectAppArmor(d.armor.host), s.inspectFirewall(), s.inspectGPUs(d))
}

func (s *settings) inspectNeeds(ctx context.Context, p probe) []Finding {
	// Who runs this is the inspector, not Nomad.
	asked := p
	asked.euid = 0
	needs, _ := s.requirements(ctx, asked)
	var all []Finding
	for _, n := range needs {
		if n.name == "user" {
			continue
		}
		f := Finding{Area: inspectArea, Name: n.name, Verdict: verdictOK, Seen: n.seen}
		if !n.ok {
			f.Verdict, f.Fix = verdictFail, n.fix
		}
		all = append(all, f)
	}
	return all
}

// inspectRuntimes looks at the runtimes that the operator has added.
func (s *settings) inspectRuntimes(ctx context.Context, p probe) []Finding {
	var all []Finding
	for _, name := range slices.Sorted(maps.Keys(s.Runtimes)) {
		version, err := p.other(ctx, name, s.Runtimes[name])
		f := Finding{Area: inspectArea, Name: "runtime " + name, Verdict: verdictOK, Seen: version}
		if err != nil {
			f.Verdict, f.Seen, f.Fix = verdictFail, err.Error(), "correct the driver's runtime block of that name, or what it leads to"
		}
		all = append(all, f)
	}
	return all
}

// inspectDisk looks at state_dir, or where it will be made.
func (s *settings) inspectDisk(d disk, euid int) []Finding {
	dir := s.StateDir
	_, err := d.stat(dir)
	for errors.Is(err, os.ErrNotExist) && dir != "/" {
		dir = filepath.Dir(dir)
		_, err = d.stat(dir)
	}
	finding := func(name, verdict, seen, fix string) Finding {
		return Finding{Area: inspectArea, Name: name, Verdict: verdict, Seen: seen, Fix: fix}
	}
	if errors.Is(err, os.ErrPermission) {
		return []Finding{finding("state_dir", verdictWarn, s.StateDir+" could not be looked at", "run this as root")}
	}
	if err != nil {
		return []Finding{finding("state_dir", verdictFail, err.Error(), "set the driver's option state_dir to a directory on a local disk")}
	}
	all := []Finding{s.inspectRoom(d, dir, finding)}
	if euid != 0 {
		return append(all, finding("id-mapped mounts", verdictWarn, "could not be tried", "run this as root"))
	}
	err = d.maps(dir)
	if err != nil {
		return append(all, finding("id-mapped mounts", verdictFail, err.Error(), "put state_dir on a file system such as ext4, xfs or btrfs, and use a kernel from 5.19 on"))
	}
	err = d.maps(memoryDir)
	if err != nil {
		return append(all, finding("id-mapped mounts", verdictWarn, "work in "+dir+", but not in memory: no task can mount a volume from there", "use a kernel from 6.3 on"))
	}
	return append(all, finding("id-mapped mounts", verdictOK, "work in "+dir+" and in memory", ""))
}

func (s *settings) inspectRoom(d disk, dir string, finding func(name, verdict, seen, fix string) Finding) Finding {
	const fix = "free some, or set state_dir to a larger disk"
	free, total, inodes, err := d.room(dir)
	seen := fmt.Sprintf("%s of %s free in %s", humanize.IBytes(free), humanize.IBytes(total), s.StateDir)
	switch {
	case err != nil:
		return finding("room for images", verdictFail, err.Error(), fix)
	case free < leastRoom:
		return finding("room for images", verdictFail, seen, fix)
	case inodes < leastInodes && inodes > 0: // btrfs has no fixed number and says 0
		return finding("room for images", verdictWarn, fmt.Sprintf("%s, but only %d inodes", seen, inodes), fix)
	case free < wantedRoom:
		return finding("room for images", verdictWarn, seen, fix)
	}
	return finding("room for images", verdictOK, seen, "")
}

// inspectGPUs looks for what tasks get of the NVIDIA driver besides their GPU.
func (s *settings) inspectGPUs(d *Driver) Finding {
	f := Finding{Area: inspectArea, Name: "NVIDIA libraries", Verdict: verdictOK}
	injector := gpu.New(gpu.Config{Root: s.DriverRoot, Logger: d.log.Named("gpu")})
	if !injector.Installed() {
		f.Seen = "no NVIDIA driver, so none to hand to tasks"
		return f
	}
	found, err := injector.Survey()
	switch {
	case err != nil:
		f.Verdict, f.Seen = verdictFail, err.Error()
		f.Fix = "install the NVIDIA driver's libraries of the version of its kernel module, or set driver_root to where they are"
	case len(found.Missing) > 0:
		f.Verdict, f.Seen = verdictFail, "no "+strings.Join(found.Missing, ", ")
		f.Fix = "nvidia-modprobe -c 0 -u, and nvidia-persistenced to keep the nodes"
	default:
		f.Seen = fmt.Sprintf("version %s, %d libraries, %s", found.Version, found.Libraries, strings.Join(found.Nodes, ", "))
	}
	return f
}
