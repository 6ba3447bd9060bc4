package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func launch() *Launch {
	return &Launch{
		Version: Version, ID: "a-b", BootID: "boot", Shim: "/s", Runtime: "/r", RuntimeKind: "oci",
		RuntimeName: "other", RuntimeRoot: "/x", RuntimeID: "y",
		RuntimeArgs: []string{"--a", "b c", ""}, Stdout: "/o\nx", Stderr: `/e"\`, StdioUID: 1, StdioGID: 2,
		CgroupsPath: "/nomad/x", CpusetCgroup: "/c", LeaseFile: "/l", LeaseTTLMs: 3,
	}
}

func state() *State {
	return &State{
		Version: Version, ID: "a-b", BootID: "boot", Pid: 1, StartTime: 1<<64 - 1, ShimPid: 3, ShimStartTime: 4,
		CreatedUnixNs: 5, OOMBaseline: 6, ForksBaseline: 7,
	}
}

func exit() *Exit {
	return &Exit{
		Version: Version, Code: 137, Signal: 9, OOMKilled: true, ForkRefused: true, LeaseExpired: true, Unknown: true,
		Error: "it\nfailed", AtUnixNs: 1<<63 - 1, DroppedLogBytes: 7,
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, WriteLaunch(dir, launch()))
	must.NoError(t, WriteState(dir, state()))
	must.NoError(t, WriteExit(dir, exit()))
	gotLaunch, err := ReadLaunch(dir)
	must.NoError(t, err)
	must.Eq(t, launch(), gotLaunch)
	gotState, err := ReadState(dir)
	must.NoError(t, err)
	must.Eq(t, state(), gotState)
	gotExit, err := ReadExit(dir)
	must.NoError(t, err)
	must.Eq(t, exit(), gotExit)

	must.NoError(t, WriteExit(dir, &Exit{Version: Version}))
	gotExit, err = ReadExit(dir)
	must.NoError(t, err)
	must.Eq(t, &Exit{Version: Version}, gotExit)

	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.Len(t, 3, entries, must.Sprint("no temporary file is left"))
	for _, entry := range entries {
		info, err := entry.Info()
		must.NoError(t, err)
		must.Eq(t, 0o600, info.Mode().Perm())
	}
}

// The text is a format that another version of the program reads: it must not change by accident.
func TestGolden(t *testing.T) {
	tests := []struct {
		name   string
		fields []field
	}{
		{"launch", launch().fields()},
		{"state", state().fields()},
		{"exit", exit().fields()},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", tc.name+".golden"))
			must.NoError(t, err)
			must.Eq(t, string(want), string(encode(tc.fields)))
		})
	}
}

func TestReadErrors(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
	}{
		{"empty after a power cut", "", ErrMalformed},
		{"cut off", "version 1\ncode 3", ErrMalformed},
		{"no value", "version\n", ErrMalformed},
		{"no number", "code x\n", ErrMalformed},
		{"a number too large", "signal 99999999999999999999\n", ErrMalformed},
		{"no quotes", "error x\n", ErrMalformed},
		{"no truth", "unknown maybe\n", ErrMalformed},
		{"zeroes", strings.Repeat("\x00", 100), ErrMalformed},
		{"of a later version", "version 1\nnovelty 5\n", nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			must.NoError(t, os.WriteFile(filepath.Join(dir, ExitFile), []byte(tc.text), 0o600))
			_, err := ReadExit(dir)
			must.ErrorIs(t, err, tc.want)
		})
	}
	_, err := ReadExit(t.TempDir())
	must.ErrorIs(t, err, os.ErrNotExist)
	must.ErrorIs(t, WriteExit(t.TempDir()+"/missing", exit()), os.ErrNotExist)
	must.ErrorIs(t, WriteState(t.TempDir()+"/missing", state()), os.ErrNotExist)
	must.ErrorIs(t, WriteLaunch(t.TempDir()+"/missing", launch()), os.ErrNotExist)
}

func FuzzDecode(f *testing.F) {
	f.Add(string(encode(launch().fields())))
	f.Add("id \"\\x00\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		var first, second Launch
		if decode(text, first.fields()) != nil {
			return
		}
		encoded := encode(first.fields())
		if len(encoded) == 0 {
			return
		}
		must.NoError(t, decode(string(encoded), second.fields()))
		must.Eq(t, first, second)
	})
}

func TestLaunchDefaults(t *testing.T) {
	must.Eq(t, "/t/run", (&Launch{}).Root("/t"))
	must.Eq(t, "/x", launch().Root("/t"))
	must.Eq(t, "a", (&Launch{ID: "a"}).Container())
	must.Eq(t, "y", launch().Container())
}
