package ownership

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

var task = Range{Start: 0x70000000, Count: 65536}

func TestHost(t *testing.T) {
	for id, want := range map[uint32]uint32{
		0: task.Start, 1000: task.Start + 1000, 65535: task.Start + 65535,
		65536: task.Start + 65534, task.Start - 1: task.Start + 65534, task.Start + 65536: task.Start + 65534,
		task.Start: task.Start, task.Start + 65535: task.Start + 65535,
	} {
		must.Eq(t, want, task.host(id), must.Sprint("of ", id))
	}
}

func owner(t *testing.T, path string) (uint32, uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	must.NoError(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

func memory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestRootGive(t *testing.T) {
	dir := memory(t)
	inMemory, err := InMemory(dir)
	must.NoError(t, err)
	must.True(t, inMemory)
	outside := filepath.Join(t.TempDir(), "outside")
	must.NoError(t, os.WriteFile(outside, nil, 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("x"), 0o600))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "deep"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "deep", "key"), nil, 0o600))
	must.NoError(t, os.Lchown(filepath.Join(dir, "deep", "key"), 1000, 100))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "own"), nil, 0o600))
	must.NoError(t, os.Lchown(filepath.Join(dir, "own"), int(task.Start)+7, int(task.Start)+7))
	must.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	must.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "up")))

	must.NoError(t, task.Give(dir))
	must.NoError(t, task.Give(dir))
	for name, want := range map[string][2]uint32{
		"":         {task.Start, task.Start},
		"token":    {task.Start, task.Start},
		"deep":     {task.Start, task.Start},
		"deep/key": {task.Start + 1000, task.Start + 100},
		"own":      {task.Start + 7, task.Start + 7},
		"link":     {task.Start, task.Start},
		"up":       {task.Start, task.Start},
	} {
		uid, gid := owner(t, filepath.Join(dir, name))
		must.Eq(t, want, [2]uint32{uid, gid}, must.Sprint("of ", name))
	}
	uid, _ := owner(t, outside)
	must.Zero(t, uid, must.Sprint("a link led out of the directory"))
}

func TestRootGiveEndless(t *testing.T) {
	dir := memory(t)
	must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=32m,nr_inodes=40000"))
	for i := range maxEntries + 1 {
		must.NoError(t, os.Symlink("x", filepath.Join(dir, fmt.Sprint(i))))
	}
	must.ErrorContains(t, task.Give(dir), "more than")
}

// What Nomad writes later, new, replaced, or in a directory made later, becomes the task's too.
func TestRootKeep(t *testing.T) {
	dir := memory(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- task.Keep(ctx, dir, func(err error) { t.Log(err) }) }()
	soon := func(name string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			uid, _ := owner(t, filepath.Join(dir, name))
			if uid == task.Start {
				return
			}
			must.True(t, time.Now().Before(deadline), must.Sprint(name, " never became the task's"))
			time.Sleep(20 * time.Millisecond)
		}
	}
	must.NoError(t, os.WriteFile(filepath.Join(dir, "first"), nil, 0o600))
	soon("first")
	must.NoError(t, os.Mkdir(filepath.Join(dir, "later"), 0o700))
	soon("later")
	must.NoError(t, os.WriteFile(filepath.Join(dir, "later", "file"), nil, 0o600))
	soon("later/file")
	must.NoError(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
	must.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "first")))
	soon("first")
	must.NoError(t, os.Lchown(filepath.Join(dir, "first"), 0, 0))
	soon("first")
	cancel()
	must.NoError(t, <-done)
}
