package sink

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// A task can put what it likes in the place of a log FIFO; nothing but a FIFO is opened.
func TestOpen(t *testing.T) {
	logs := filepath.Join(t.TempDir(), "alloc", "logs")
	must.NoError(t, os.MkdirAll(logs, 0o755))
	at := func(name string) string { return filepath.Join(logs, name) }
	outside := filepath.Join(t.TempDir(), "fifo")
	must.NoError(t, unix.Mkfifo(outside, 0o600))
	must.NoError(t, unix.Mkfifo(at("fifo"), 0o600))
	must.NoError(t, os.WriteFile(at("file"), nil, 0o600))
	must.NoError(t, os.Symlink(outside, at("link")))
	must.NoError(t, os.Symlink(filepath.Dir(outside), at("dir")))
	for _, tc := range []struct{ name, path, fails string }{
		{"a FIFO", at("fifo"), ""},
		{"nothing", at("none"), "no such file"},
		{"a file", at("file"), "is no FIFO"},
		{"a directory", logs, "is no FIFO"},
		{"a link to a FIFO elsewhere", at("link"), "is no FIFO"},
		{"a FIFO behind a link", at("dir") + "/fifo", "cannot log to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fd, inode, err := Open(tc.path)
			if tc.fails != "" {
				must.ErrorContains(t, err, tc.fails)
				_, err = Inode(tc.path)
				must.ErrorContains(t, err, tc.fails)
				return
			}
			must.NoError(t, err)
			now, err := Inode(tc.path)
			must.NoError(t, err)
			must.Eq(t, inode, now)
			_, err = unix.Write(fd, []byte("x"))
			must.NoError(t, err, must.Sprint("it has both ends open"))
			must.NoError(t, unix.Close(fd))
		})
	}
}
