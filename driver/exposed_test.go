package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestRootExposed(t *testing.T) {
	cases := []struct {
		name string
		mode os.FileMode
		gid  int
		want bool
	}{
		{"open", 0o755, 0, true},
		{"searchable", 0o711, 0, true},
		{"root's alone", 0o700, 0, false},
		{"another group's", 0o750, 1234, true},
		{"root's group's", 0o750, 0, false},
		{"listed but not entered", 0o744, 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			base, err := os.MkdirTemp("/var/tmp", "pangaea-exposed-")
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, os.RemoveAll(base)) })
			must.NoError(t, os.Chmod(base, 0o755))
			data := filepath.Join(base, "data")
			allocs := filepath.Join(data, "alloc")
			must.NoError(t, os.MkdirAll(filepath.Join(allocs, "1"), 0o755))
			must.NoError(t, os.Chown(data, 0, c.gid))
			must.NoError(t, os.Chmod(data, c.mode))
			must.Eq(t, c.want, Exposed(allocs))

			d := New(hclog.NewNullLogger())
			defer d.Shutdown()
			healthy := func() *drivers.Fingerprint {
				return d.addExposure(newSettings(Config{}).fingerprint(t.Context(), good()))
			}
			must.MapNotContainsKey(t, healthy().Attributes, "driver.runc.exposed_data_dir")
			d.noteAllocDir(filepath.Join(allocs, "1"))
			got := healthy()
			told, ok := got.Attributes["driver.runc.exposed_data_dir"].GetBool()
			must.True(t, ok)
			must.Eq(t, c.want, told)
			must.Eq(t, drivers.HealthStateHealthy, got.Health)
			must.Eq(t, c.want, got.HealthDescription != drivers.DriverHealthy)

			must.NoError(t, unix.Mount("tmpfs", allocs, "tmpfs", unix.MS_NOSUID, "size=64k"))
			defer func() { must.NoError(t, unix.Unmount(allocs, 0)) }()
			must.False(t, Exposed(allocs))
		})
	}
}
