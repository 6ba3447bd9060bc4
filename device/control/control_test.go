package control

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func fresh(t *testing.T) Dir { return Dir(filepath.Join(t.TempDir(), "device")) }

func TestReclaimAndRelease(t *testing.T) {
	d := fresh(t)
	at := time.Date(2026, 11, 28, 15, 4, 5, 0, time.UTC)
	one := Reclaim{By: "ada", Since: at, Note: "rendering"}
	all, err := d.Reclaims()
	must.NoError(t, err)
	must.MapEmpty(t, all)
	had, err := d.Release("GPU-a")
	must.NoError(t, err)
	must.False(t, had)

	must.NoError(t, d.Reclaim("GPU-a", one))
	must.NoError(t, d.Reclaim(All, Reclaim{By: "bob", Since: at, Keep: true}))
	all, err = d.Reclaims()
	must.NoError(t, err)
	must.Eq(t, map[string]Reclaim{"GPU-a": one, All: {By: "bob", Since: at, Keep: true}}, all)
	must.Eq(t, "reclaimed by its owner (ada) since 2026-11-28 15:04:05 UTC: rendering", one.Reason())

	_, err = d.Release("GPU-a")
	must.ErrorIs(t, err, ErrAllReclaimed)
	had, err = d.Release(All)
	must.NoError(t, err)
	must.True(t, had)
	all, err = d.Reclaims()
	must.NoError(t, err)
	must.MapEmpty(t, all, must.Sprint("all means the single ones too"))

	must.NoError(t, d.Reclaim("GPU-a", one))
	had, err = d.Release("GPU-a")
	must.NoError(t, err)
	must.True(t, had)
}

// Whatever lies there under a reclaim's name takes its GPU: better a GPU too few in the pool than an owner without his.
func TestReclaimsFailTowardsTheOwner(t *testing.T) {
	d := fresh(t)
	must.NoError(t, d.Reclaim("GPU-a", Reclaim{}))
	must.NoError(t, os.WriteFile(filepath.Join(d.reclaims(), "GPU-b.json"), []byte("{half"), 0o600))
	must.NoError(t, os.Mkdir(filepath.Join(d.reclaims(), "GPU-c.json"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(d.reclaims(), "GPU-d.json.new"), nil, 0o600))
	all, err := d.Reclaims()
	must.NoError(t, err)
	must.MapLen(t, 3, all)
	must.Eq(t, "reclaimed by its owner", all["GPU-a"].Reason())
	must.Eq(t, "reclaimed by its owner: its file cannot be read", all["GPU-b"].Reason())
	must.Eq(t, all["GPU-b"], all["GPU-c"])
}

func TestNamesThatAreNoGPU(t *testing.T) {
	d := fresh(t)
	for _, name := range []string{"", "../../etc/cron.d/x", "GPU-a/b", ".", "-a", "a b", "GPU\n"} {
		must.ErrorContains(t, d.Reclaim(name, Reclaim{}), "cannot take")
		_, err := d.Release(name)
		must.ErrorContains(t, err, "cannot take")
	}
	must.DirNotExists(t, string(d))
}

func TestUnsafeDirectoryIsRefused(t *testing.T) {
	cases := []struct {
		name   string
		change func(d Dir) error
	}{
		{"others write", func(d Dir) error { return os.Chmod(string(d), 0o777) }},
		{"the group writes reclaims", func(d Dir) error { return os.Chmod(d.reclaims(), 0o770) }},
		{"a link", func(d Dir) error {
			err := os.Rename(d.reclaims(), string(d)+".else")
			if err != nil {
				return err
			}
			return os.Symlink(string(d)+".else", d.reclaims())
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := fresh(t)
			must.NoError(t, d.prepare())
			must.NoError(t, c.change(d))
			must.ErrorIs(t, d.Reclaim("GPU-a", Reclaim{}), ErrUnsafe)
			_, err := d.Reclaims()
			must.ErrorIs(t, err, ErrUnsafe)
			_, err = d.Status(time.Now())
			must.ErrorIs(t, err, ErrUnsafe)
			_, err = d.Publisher()
			must.ErrorIs(t, err, ErrUnsafe)
		})
	}
}

func TestStatus(t *testing.T) {
	d := fresh(t)
	now := time.Date(2026, 11, 28, 15, 0, 0, 0, time.UTC)
	_, err := d.Status(now)
	must.ErrorIs(t, err, ErrStale)
	p, err := d.Publisher()
	must.NoError(t, err)
	want := Status{PID: 7, At: now, GPUs: []GPU{{UUID: "GPU-a", Tasks: []Task{{AllocID: "1", Task: "t", Processes: []Process{{PID: 9, Name: "x"}}}}}}}
	must.NoError(t, p.Publish(want))
	_, err = d.Publisher()
	must.ErrorContains(t, err, "another device plugin")
	got, err := d.Status(now.Add(30 * time.Second))
	must.NoError(t, err)
	must.Eq(t, want, got)
	got, err = d.Status(now.Add(31 * time.Second))
	must.ErrorIs(t, err, ErrStale)
	must.Eq(t, want, got)
	info, err := os.Stat(d.statusFile())
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm(), must.Sprint("it names the owner's programs"))
	must.NoError(t, p.Close())
	p, err = d.Publisher()
	must.NoError(t, err)
	must.NoError(t, p.Close())
}
