package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

func inspected(t *testing.T, all []Finding, name string) Finding {
	t.Helper()
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %s in %v", name, all)
	return Finding{}
}

// What the doctor says is what the fingerprint says.
func TestInspectAgreesWithFingerprint(t *testing.T) {
	p := good()
	p.euid = 1000 // who asks is not Nomad
	p.version = func(context.Context, string) (string, error) {
		return "", errors.New("libcontainer is old: install another")
	}
	p.exists = func(path string) bool { return filepath.Base(path) != shimName }
	s := newSettings(Config{PullTimeout: "soon"})
	all := s.inspectNeeds(t.Context(), p)
	for name, want := range map[string]string{
		"options": `pull_timeout "soon" must be a positive duration such as 30m`, shimName: s.ShimPath, "libcontainer": "libcontainer is old",
	} {
		f := inspected(t, all, name)
		must.Eq(t, verdictFail, f.Verdict)
		must.StrContains(t, f.Seen, want)
		must.NotEq(t, "", f.Fix)
	}
	must.Eq(t, "6.18.5-amd64", inspected(t, all, "kernel").Seen)
	for _, f := range all {
		must.NotEq(t, "user", f.Name)
	}
}

func TestInspectDisk(t *testing.T) {
	const gib = 1 << 30
	roomy := disk{
		room: func(string) (uint64, uint64, uint64, error) { return 100 * gib, 200 * gib, 1e6, nil },
		maps: func(string) error { return nil }, stat: os.Stat,
	}
	cases := []struct {
		name, line    string
		change        func(*disk)
		dir           string
		euid          int
		verdict, seen string
	}{
		{"room", "room for images", func(*disk) {}, "", 0, verdictOK, "100 GiB of 200 GiB free"},
		{"little room", "room for images", func(d *disk) {
			d.room = func(string) (uint64, uint64, uint64, error) { return 10 * gib, 200 * gib, 1e6, nil }
		}, "", 0, verdictWarn, "10 GiB of"},
		{"no room", "room for images", func(d *disk) {
			d.room = func(string) (uint64, uint64, uint64, error) { return gib / 2, 200 * gib, 1e6, nil }
		}, "", 0, verdictFail, "512 MiB of"},
		{"no inodes", "room for images", func(d *disk) {
			d.room = func(string) (uint64, uint64, uint64, error) { return 100 * gib, 200 * gib, 70, nil }
		}, "", 0, verdictWarn, "only 70 inodes"},
		{"mapped", "id-mapped mounts", func(*disk) {}, "", 0, verdictOK, "work in "},
		{"not there yet", "id-mapped mounts", func(*disk) {}, "/a/b", 0, verdictOK, "work in "},
		{"file system that cannot", "id-mapped mounts", func(d *disk) { d.maps = func(string) error { return errors.New("invalid argument") } }, "", 0, verdictFail, "invalid argument"},
		{"kernel before 6.3", "id-mapped mounts", func(d *disk) {
			d.maps = func(dir string) error {
				if dir == memoryDir {
					return errors.New("invalid argument")
				}
				return nil
			}
		}, "", 0, verdictWarn, "but not in memory"},
		{"not root", "id-mapped mounts", func(*disk) {}, "", 1000, verdictWarn, "could not be tried"},
		{"closed to the asker", "state_dir", func(d *disk) { d.stat = func(string) (os.FileInfo, error) { return nil, os.ErrPermission } }, "", 1000, verdictWarn, "could not be looked at"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, d := newSettings(Config{StateDir: t.TempDir() + c.dir}), roomy
			c.change(&d)
			f := inspected(t, s.inspectDisk(d, c.euid), c.line)
			must.Eq(t, c.verdict, f.Verdict, must.Sprint(f))
			must.StrContains(t, f.Seen, c.seen)
			must.Eq(t, c.verdict == verdictOK, f.Fix == "")
		})
	}
}

func TestRootInspectGPUs(t *testing.T) {
	d := New(hclog.NewNullLogger())
	defer d.Shutdown()
	s := newSettings(Config{DriverRoot: gpuHost.root})
	f := s.inspectGPUs(d)
	must.Eq(t, verdictOK, f.Verdict, must.Sprint(f))
	must.StrContains(t, f.Seen, "version 570.86.15, ")
	s.DriverRoot = t.TempDir()
	f = s.inspectGPUs(d)
	must.Eq(t, verdictFail, f.Verdict, must.Sprint(f))
	must.StrContains(t, f.Fix, "driver_root")
}
