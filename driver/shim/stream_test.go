package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// logDir is a log directory like Nomad's, with a FIFO in it that is open for reading.
func logDir(t *testing.T) (path string, reader int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "alloc", "logs")
	must.NoError(t, os.MkdirAll(dir, 0o755))
	path = filepath.Join(dir, "fifo")
	return path, makeFIFO(t, path)
}

func makeFIFO(t *testing.T, path string) int {
	t.Helper()
	must.NoError(t, unix.Mkfifo(path, 0o600))
	reader, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(reader) })
	return reader
}

func readAll(fd int) string {
	var text strings.Builder
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buffer)
		if err != nil || n <= 0 {
			return text.String()
		}
		text.Write(buffer[:n])
	}
}

func TestSinkIsOnlyAFIFO(t *testing.T) {
	path, _ := logDir(t)
	dir := filepath.Dir(path)
	must.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
	must.NoError(t, os.Symlink("fifo", dir+"/link"))
	must.NoError(t, os.Symlink("logs", dir+"/../renamed"))
	must.NoError(t, os.Symlink("alloc", dir+"/../../moved"))
	tests := []struct {
		name, path, want string
	}{
		{"a FIFO", path, ""},
		{"a file", dir + "/file", "is no FIFO"},
		{"a directory", dir, "is no FIFO"},
		{"a device", "/dev/null", "is no FIFO"},
		{"a symlink to a FIFO", dir + "/link", "is no FIFO"},
		{"in a symlinked directory", filepath.Join(dir, "../renamed/fifo"), "symbolic links"},
		{"in a symlinked parent directory", filepath.Join(dir, "../../moved/logs/fifo"), "symbolic links"},
		{"missing", dir + "/missing", "no such file"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			out := stream{path: tc.path, sink: -1}
			err := out.openSink()
			defer out.closeSink()
			if tc.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.want)
			must.Negative(t, out.sink)
		})
	}
}

// A full sink is waited for as long as patience lasts; then output is dropped and counted until there is room.
func TestStreamDrops(t *testing.T) {
	path, reader := logDir(t)
	out := stream{path: path, sink: -1}
	must.NoError(t, out.openSink())
	defer out.closeSink()
	at := time.Hour
	chunk := strings.Repeat("x", bufferSize)
	offer := func() { out.pending = append(out.buffer[:0], chunk...); out.write(at) }

	written := 0
	for range 1000 {
		offer()
		if len(out.pending) > 0 {
			break
		}
		written += len(chunk)
	}
	must.Positive(t, len(out.pending), must.Sprint("the sink is full"))
	must.Zero(t, out.dropped)
	at += patience / 2
	out.write(at)
	must.Zero(t, out.dropped, must.Sprint("it is patient"))
	at += patience
	left := len(out.pending)
	out.write(at)
	must.Eq(t, left, int(out.dropped), must.Sprint("it has lost patience"))
	offer()
	must.Eq(t, left+len(chunk), int(out.dropped), must.Sprint("it drops at once"))
	must.SliceEmpty(t, out.pending)

	kept := readAll(reader)
	must.Eq(t, written+len(chunk)-left, len(kept))
	offer()
	must.Eq(t, left+len(chunk), int(out.dropped), must.Sprint("there is room again"))
	must.Eq(t, chunk, readAll(reader))
	must.False(t, out.dropping)
}

// Without a reader everything stays in the FIFO and comes out later.
func TestStreamKeepsWithoutReader(t *testing.T) {
	path, reader := logDir(t)
	out := stream{path: path, sink: -1}
	must.NoError(t, out.openSink())
	defer out.closeSink()
	must.NoError(t, unix.Close(reader))
	out.pending = append(out.buffer[:0], "while nobody reads\n"...)
	out.write(now())
	must.SliceEmpty(t, out.pending)
	again, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must.NoError(t, err)
	defer unix.Close(again)
	must.Eq(t, "while nobody reads\n", readAll(again))
}

func TestStreamFollowsItsFIFO(t *testing.T) {
	path, _ := logDir(t)
	out := stream{path: path, sink: -1}
	must.NoError(t, out.openSink())
	defer out.closeSink()
	at := time.Hour
	send := func(text string) { out.pending = append(out.buffer[:0], text...); out.write(at) }
	send("one")
	must.NoError(t, os.Rename(path, path+".old"))
	second := makeFIFO(t, path)
	send("two")
	must.Eq(t, "", readAll(second), must.Sprint("it does not look that often"))
	at += 2 * time.Second
	send("three")
	must.Eq(t, "three", readAll(second))
	must.NoError(t, os.Remove(path))
	must.NoError(t, os.Symlink("/dev/null", path))
	at += 2 * time.Second
	send("four")
	must.Eq(t, "four", readAll(second), must.Sprint("what is no FIFO is not followed"))
}

func TestSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "source")
	var out stream
	must.NoError(t, out.openSource(path, true, os.Getuid(), os.Getgid()))
	_, err := unix.Write(out.taskEnd, []byte("hello"))
	must.NoError(t, err)
	must.True(t, out.read())
	must.Eq(t, "hello", string(out.pending))
	out.pending = nil
	must.True(t, out.read(), must.Sprint("a writer is left"))
	must.SliceEmpty(t, out.pending)

	var next stream
	must.NoError(t, next.openSource(path, false, 0, 0))
	must.NoError(t, unix.Close(out.source))
	_, err = unix.Write(out.taskEnd, []byte("more"))
	must.NoError(t, err, must.Sprint("a killed shim gets the task no SIGPIPE"))
	must.True(t, next.read())
	must.Eq(t, "more", string(next.pending))
	must.NoError(t, unix.Close(out.taskEnd))
	must.False(t, next.read(), must.Sprint("the last writer is gone"))
	must.Negative(t, next.source)
}

func TestConversation(t *testing.T) {
	tests := []struct {
		name, said, expected, want, fails string
	}{
		{"as expected", "created 17\n", "created", "17", ""},
		{"in pieces", "created 1|8\nstarted \n", "created", "18", ""},
		{"an error", "error the moon is full\n", "created", "", "the moon is full"},
		{"cut off", "created 1", "created", "", "the runtime died"},
		{"silence", "", "created", "", "the runtime died"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must.NoError(t, err)
			defer unix.Close(pair[0])
			for piece := range strings.SplitSeq(tc.said, "|") {
				_, err = unix.Write(pair[1], []byte(piece))
				must.NoError(t, err)
			}
			must.NoError(t, unix.Close(pair[1]))
			talk := conversation{fd: pair[0]}
			got, err := talk.next(tc.expected)
			must.Eq(t, tc.want, got)
			if tc.fails != "" {
				must.ErrorContains(t, err, tc.fails)
			}
		})
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	must.NoError(t, lock(path))
	must.ErrorContains(t, lock(path), "another shim")
	must.NoError(t, os.Symlink(path, path+".link"))
	must.ErrorContains(t, lock(path+".link"), "symbolic links")
}

func TestWrap(t *testing.T) {
	err := wrap("do it", unix.ENOENT)
	must.EqError(t, err, "cannot do it: no such file or directory")
	must.True(t, errors.Is(err, os.ErrNotExist))
}
