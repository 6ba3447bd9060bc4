package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/shoenig/test/must"
)

func TestForgetCpuset(t *testing.T) {
	const forgotten = `{"cgroup_paths":{"pids":"/p"},"id":"x"}`
	tests := []struct{ name, state, want, fails string }{
		{"known", `{"id":"x","cgroup_paths":{"cpuset":"/c","pids":"/p"}}`, forgotten, ""},
		{"forgotten before", forgotten, forgotten, ""},
		{"no state", "", "", "cannot read"},
		{"no paths", `{"id":"x"}`, "", "cannot decode"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "state.json")
			if tc.state != "" {
				must.NoError(t, os.WriteFile(file, []byte(tc.state), 0o600))
			}
			// Programs may be executed in a sandbox at the same time.
			errs := make([]error, 8)
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { errs[i] = forgetCpuset(file) })
			}
			wg.Wait()
			for _, err := range errs {
				if tc.fails != "" {
					must.ErrorContains(t, err, tc.fails)
					continue
				}
				must.NoError(t, err)
			}
			if tc.fails != "" {
				return
			}
			data, err := os.ReadFile(file)
			must.NoError(t, err)
			must.Eq(t, tc.want, string(data))
			entries, err := os.ReadDir(filepath.Dir(file))
			must.NoError(t, err)
			must.Len(t, 1, entries)
		})
	}
}

// Only binds that are mapped as the sandbox is may take its mapping, and the others keep theirs.
func TestLendUserns(t *testing.T) {
	own, other := []configs.IDMap{{HostID: 1000, Size: 10}}, []configs.IDMap{{HostID: 2000, Size: 10}}
	mapped := func(uids, gids []configs.IDMap, recursive bool) *configs.Mount {
		return &configs.Mount{IDMapping: &configs.MountIDMapping{UIDMappings: uids, GIDMappings: gids, Recursive: recursive}}
	}
	mounts := func() []*configs.Mount {
		return []*configs.Mount{{}, mapped(own, own, true), mapped(own, other, false), mapped(other, own, false)}
	}
	config := &configs.Config{UIDMappings: own, GIDMappings: own, Mounts: mounts()}
	lendUserns(config, "")
	must.Eq(t, mounts(), config.Mounts)
	lendUserns(config, "/proc/1/fd/2")
	want := mounts()
	want[1].IDMapping = &configs.MountIDMapping{UserNSPath: "/proc/1/fd/2", Recursive: true}
	must.Eq(t, want, config.Mounts)
}
