package driver

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"golang.org/x/sys/unix"
)

// ExposureAdvice is what an operator reads whose data_dir is open.
const ExposureAdvice = "other users of this host can reach the tasks' directories, where what a task's root makes setuid is the host's root's: make Nomad's data_dir 0700 or mount it nosuid"

// Exposed tells whether other users of the host can enter a directory and run setuid programs in it.
//
// The tasks' directories are mapped by owner: what a task's root owns there, the host's root owns on the disk. In the
// sandbox such a mount is nosuid; on the host it is whatever the operator made it, so a task could leave a setuid
// shell for an accomplice with an account. Group members count as other users, unless the group is root's.
func Exposed(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false // nothing is there
	}
	var fs unix.Statfs_t
	err = unix.Statfs(dir, &fs)
	if err == nil && fs.Flags&unix.ST_NOSUID != 0 {
		return false
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		byGroup := ok && st.Gid != 0 && st.Mode&unix.S_IXGRP != 0
		if !byGroup && info.Mode().Perm()&unix.S_IXOTH == 0 {
			return false
		}
		if dir == "/" {
			return true
		}
	}
}

// noteAllocDir remembers where allocations lie: Nomad tells a driver only with its first task.
func (d *Driver) noteAllocDir(allocDir string) {
	parent := filepath.Dir(allocDir)
	d.mu.Lock()
	known := d.allocs == parent
	d.allocs = parent
	d.mu.Unlock()
	if !known && Exposed(parent) {
		d.log.Warn("the tasks' directories are exposed", "dir", parent, "problem", ExposureAdvice)
	}
}

// addExposure completes a fingerprint with what is known of the tasks' directories.
func (d *Driver) addExposure(f *drivers.Fingerprint) *drivers.Fingerprint {
	d.mu.Lock()
	allocs := d.allocs
	d.mu.Unlock()
	if allocs == "" || f.Health != drivers.HealthStateHealthy {
		return f
	}
	open := Exposed(allocs)
	f.Attributes["driver.runc.exposed_data_dir"] = pstructs.NewBoolAttribute(open)
	if open {
		f.HealthDescription += ", but " + ExposureAdvice
	}
	return f
}
