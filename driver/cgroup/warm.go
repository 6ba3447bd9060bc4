package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Warm keeps the kernel ready to move processes between cgroups until ctx ends, which costs nearly nothing.
//
// Moving a process takes the kernel's cgroup_threadgroup_rwsem, and the first writer in a while waits for an RCU
// grace period: 5 to 12 ms, half of a sandbox's start. Writers that come soon after do not wait. So while a
// sandbox is being prepared this process is moved to the cgroup in which it is, which changes nothing.
func Warm(ctx context.Context) {
	path := own("/proc/self/cgroup", Root)
	if path == "" {
		return
	}
	self := []byte(strconv.Itoa(os.Getpid()))
	for ctx.Err() == nil {
		err := os.WriteFile(path, self, 0)
		if err != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// own finds the cgroup.procs file of this process's cgroup in some hierarchy.
func own(list, root string) string {
	data, err := os.ReadFile(list)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, hierarchy := range []string{parts[1], "unified", ""} {
			file := filepath.Join(root, hierarchy, parts[2], "cgroup.procs")
			_, err := os.Stat(file)
			if err == nil && (parts[1] == "" || hierarchy == parts[1]) {
				return file
			}
		}
	}
	return ""
}
