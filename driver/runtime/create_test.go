package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

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
