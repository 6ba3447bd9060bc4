package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupParents are the directories that all of this machine's Nomad clients share. The last node to go removes them
// if no Nomad had them before the first came.
type cgroupParents struct {
	lock   *os.File
	before bool
}

func holdCgroupParents() (*cgroupParents, error) {
	lock, err := os.OpenFile("/run/pangaea-node.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the nodes' lock: %w", err)
	}
	p := &cgroupParents{lock: lock, before: len(nomadCgroups()) > 0}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot take the nodes' lock: %w", err), lock.Close())
	}
	return p, nil
}

// nomadCgroups are Nomad's top directories on cgroup v1 and v2.
func nomadCgroups() []string {
	v1, _ := filepath.Glob(cgroupRoot + "/*/nomad")
	v2, _ := filepath.Glob(cgroupRoot + "/nomad.slice")
	return append(v1, v2...)
}

// release removes what the allocations left, and the parents if nobody else needs them.
func (p *cgroupParents) release(allocs []string) error {
	var err error
	for _, id := range allocs {
		for _, pattern := range []string{"/*/nomad/*/" + id + "*", "/*/nomad/" + id + "*", "/nomad.slice/*/" + id + "*"} {
			dirs, _ := filepath.Glob(cgroupRoot + pattern)
			for _, dir := range dirs {
				err = errors.Join(err, RemoveCgroup(dir))
			}
		}
	}
	alone := syscall.Flock(int(p.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
	if alone && !p.before {
		for _, dir := range nomadCgroups() {
			_ = RemoveCgroup(dir) // another Nomad may have come to use it
		}
	}
	return errors.Join(err, p.lock.Close())
}

// RemoveCgroup removes a cgroup and those in it. The kernel says EBUSY for a moment after the last process has died.
func RemoveCgroup(dir string) error {
	children, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, child := range children {
		err := RemoveCgroup(filepath.Dir(child))
		if err != nil {
			return err
		}
	}
	var err error
	for range 100 {
		err = os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if len(procs) > 0 {
			break
		}
		time.Sleep(pollPause / 2)
	}
	return fmt.Errorf("cannot remove the cgroup %s: %w", dir, err)
}
