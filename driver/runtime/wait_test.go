package main

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// A rehearsal that fails half-way warms nothing, and nobody would notice.
func TestRehearsal(t *testing.T) {
	spec := new(specs.Spec)
	must.NoError(t, json.Unmarshal([]byte(rehearsal), spec))
	_, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "x", Spec: spec})
	must.NoError(t, err)
	_, err = newProcess(spec.Process)
	must.NoError(t, err)
	rehearse()
}

func TestReceiveRefuses(t *testing.T) {
	tests := []struct {
		name  string
		text  string
		files int
		fails string
	}{
		{"the shim has gone", "", 0, ""},
		{"no files", "create", 0, "without files"},
		{"too few files", "create", 2, "without its three files"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, unix.Close(pair[1])) })
			if tc.text != "" {
				var rights []byte
				if tc.files > 0 {
					rights = unix.UnixRights(slices.Repeat([]int{0}, tc.files)...)
				}
				must.NoError(t, unix.Sendmsg(pair[0], []byte(tc.text), rights, nil, 0))
			}
			must.NoError(t, unix.Close(pair[0]))
			args, err := receive(pair[1])
			must.SliceEmpty(t, args)
			if tc.fails == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.fails)
		})
	}
}
