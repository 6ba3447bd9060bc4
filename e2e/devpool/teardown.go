package devpool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
)

// Stop takes the pool down: jobs first, then agents, then whatever the kernel still holds for us. It does every step
// even if one fails, and returns all failures.
func (p *Pool) Stop(ctx context.Context) error {
	var all error
	for _, cluster := range p.Clusters {
		all = errors.Join(all, cluster.stopJobs(ctx))
	}
	for _, cluster := range p.Clusters {
		all = errors.Join(all, stopIfRunning(cluster.agent))
	}
	all = errors.Join(all, stopIfRunning(p.gateway))
	for _, cluster := range p.Clusters {
		all = errors.Join(all, stopIfRunning(cluster.client), stopIfRunning(cluster.server))
	}
	if p.consul != nil {
		all = errors.Join(all, stopIfRunning(p.consul.process))
	}
	if p.Registry != nil {
		all = errors.Join(all, p.Registry.Close())
	}
	all = errors.Join(all, removeLeftovers(ctx, p.dir))
	if p.cgroups != nil {
		all = errors.Join(all, removeCgroups(p.cgroups))
	}
	if p.lock != nil {
		all = errors.Join(all, p.lock.Close())
	}
	return all
}

func stopIfRunning(p *process) error {
	if p != nil && p.dead() == nil {
		return p.stop()
	}
	return nil
}

// stopJobs deregisters everything that the cluster runs and waits until its tasks have ended.
func (c *Cluster) stopJobs(ctx context.Context) error {
	if c.Token == "" || !c.Running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client, err := c.API()
	if err != nil {
		return err
	}
	everywhere := (&api.QueryOptions{Namespace: "*"}).WithContext(ctx)
	jobs, _, err := client.Jobs().List(everywhere)
	if err != nil {
		return fmt.Errorf("cannot list the jobs of %s: %w", c.Alias, err)
	}
	for _, job := range jobs {
		_, _, err = client.Jobs().Deregister(job.ID, true, (&api.WriteOptions{Namespace: job.Namespace}).WithContext(ctx))
		// The member agent may have purged it since: tests and the demo do not wait for that.
		if err != nil && !strings.Contains(err.Error(), "job not found") {
			return fmt.Errorf("cannot stop %s on %s: %w", job.ID, c.Alias, err)
		}
	}
	return c.server.await(ctx, c.Alias+" runs nothing", func(context.Context) error {
		allocations, _, err := client.Allocations().List(everywhere)
		if err != nil {
			return err
		}
		for _, allocation := range allocations {
			if allocation.ClientStatus == api.AllocClientStatusRunning || allocation.ClientStatus == api.AllocClientStatusPending {
				return fmt.Errorf("allocation %s of %s is %s", allocation.ID, allocation.JobID, allocation.ClientStatus)
			}
		}
		return nil
	})
}

// removeLeftovers takes down whatever of a pool in dir is still there: processes, sandboxes, mounts, namespaces and
// files.
func removeLeftovers(ctx context.Context, dir string) error {
	all := errors.Join(killRecorded(dir), killBelow(dir))
	all = errors.Join(all, unmountBelow(dir), removeAllocNetns(dir), removeNetwork(ctx), removeRun(dir))
	if all != nil {
		return all
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot clear %s: %w", dir, err)
	}
	for _, entry := range entries {
		if entry.Name() == "logs" {
			continue // a failed run's logs are what one looks at next
		}
		err = os.RemoveAll(filepath.Join(dir, entry.Name()))
		if err != nil {
			return fmt.Errorf("cannot clear %s: %w", dir, err)
		}
	}
	return nil
}

// killBelow kills every process that was started with an argument below dir: supervisors of tasks outlive the agents
// on purpose, and here they must not. Tasks die with their cgroup's last supervisor, or else by the sandbox's own
// cgroup, which is killed with it.
func killBelow(dir string) error {
	deadline := time.Now().Add(patience)
	for {
		pids, err := processesBelow(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot kill processes %v of an earlier run", pids)
		}
		for _, pid := range pids {
			killTree(pid)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processesBelow lists the processes, other than ours, with an argument below dir, and Nomad's log collectors that
// read a task's FIFO below it: they have no argument that tells whose they are.
func processesBelow(dir string) ([]int, error) {
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var pids []int
	for _, entry := range proc {
		var pid int
		_, err := fmt.Sscanf(entry.Name(), "%d", &pid)
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		arguments, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && (strings.Contains(string(arguments), dir+"/") || readsFIFOBelow(entry.Name(), dir)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func readsFIFOBelow(pid, dir string) bool {
	descriptors, err := filepath.Glob(filepath.Join("/proc", pid, "fd", "*"))
	if err != nil {
		return false
	}
	for _, descriptor := range descriptors {
		target, err := os.Readlink(descriptor)
		if err == nil && strings.HasPrefix(target, dir+"/") && strings.HasSuffix(target, ".fifo") {
			return true
		}
	}
	return false
}

// killTree kills a process and, before it, its children: they are a sandbox's.
func killTree(pid int) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil {
		for _, field := range strings.Fields(string(children)) {
			var child int
			_, err := fmt.Sscanf(field, "%d", &child)
			if err == nil {
				killTree(child)
			}
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// mountsBelow lists mount points below dir, deepest first.
func mountsBelow(dir string) ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	defer file.Close()
	var mounts []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		// The driver mounts tasks' root file systems elsewhere, with their writable layer below dir.
		if len(fields) > 4 && (strings.HasPrefix(fields[4], dir+"/") || strings.Contains(scanner.Text(), "upperdir="+dir+"/")) {
			mounts = append(mounts, fields[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(mounts)))
	return mounts, scanner.Err()
}

func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	for _, mount := range mounts {
		unmountErr := unix.Unmount(mount, unix.MNT_DETACH)
		if unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot unmount %s: %w", mount, unmountErr))
		}
	}
	return err
}

// removeAllocNetns deletes the network namespaces of allocations whose directory lies below dir: Nomad names them by
// allocation ID and deletes them itself unless it was killed.
func removeAllocNetns(dir string) error {
	allocations, err := filepath.Glob(filepath.Join(dir, "*", "client", "alloc", "*"))
	if err != nil {
		return fmt.Errorf("cannot list allocations: %w", err)
	}
	for _, allocation := range allocations {
		name := filepath.Join(netnsDir, filepath.Base(allocation))
		_, statErr := os.Stat(name)
		if statErr != nil {
			continue
		}
		_ = unix.Unmount(name, unix.MNT_DETACH)
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// removeRun removes what the driver keeps in /run for tasks of this pool that nobody stopped: claims of user ID ranges
// and empty mount points.
func removeRun(dir string) error {
	claims, err := filepath.Glob("/run/pangaea/idranges/*")
	if err != nil {
		return fmt.Errorf("cannot list claims of user IDs: %w", err)
	}
	for _, claim := range claims {
		owner, readErr := os.Readlink(claim)
		if readErr == nil && strings.HasPrefix(owner, dir+"/") {
			err = errors.Join(err, os.Remove(claim))
		}
	}
	for _, pattern := range []string{"/run/pangaea-rootfs/*/*/rootfs", "/run/pangaea-rootfs/*/*", "/run/pangaea-rootfs/*"} {
		points, _ := filepath.Glob(pattern)
		for _, point := range points {
			_ = os.Remove(point) // fails while it is in use
		}
	}
	return err
}

// nomadCgroups lists the cgroup directories that Nomad's clients make on cgroup v1 and v2, those that exist.
func nomadCgroups() map[string]bool {
	found := map[string]bool{}
	for _, pattern := range []string{"/sys/fs/cgroup/*/nomad", "/sys/fs/cgroup/nomad.slice"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			found[path] = true
		}
	}
	return found
}

// removeCgroups removes Nomad's cgroup directories that were not there before.
func removeCgroups(before map[string]bool) error {
	var all error
	for path := range nomadCgroups() {
		if before[path] {
			continue
		}
		var dirs []string
		err := filepath.WalkDir(path, func(name string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, name)
			}
			return nil
		})
		all = errors.Join(all, err)
		for i := len(dirs) - 1; i >= 0; i-- {
			all = errors.Join(all, removeCgroup(dirs[i]))
		}
	}
	return all
}

// removeCgroup removes one cgroup; the kernel says EBUSY for a moment after its last process died. One with processes
// or children is another Nomad's by now: all of ours are dead.
func removeCgroup(dir string) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) || isOccupied(dir) {
			return nil
		}
	}
	return fmt.Errorf("cannot remove the cgroup %s: %w", dir, err)
}

func isOccupied(cgroup string) bool {
	processes, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err == nil && len(processes) > 0 {
		return true
	}
	children, err := filepath.Glob(filepath.Join(cgroup, "*", "cgroup.procs"))
	return err == nil && len(children) > 0
}

// Leftovers lists what of a pool in dir is still on this machine: processes, mounts, network namespaces, interfaces.
// An orderly Stop leaves nothing.
func Leftovers(dir string) []string {
	var left []string
	pids, err := processesBelow(dir)
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	mounts, mountsErr := mountsBelow(dir)
	left = append(left, mounts...)
	for _, pattern := range []string{netnsDir + "/" + netnsPrefix + "*", "/sys/class/net/" + bridgeName, "/sys/class/net/pangaea-m*"} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	err = errors.Join(err, mountsErr)
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}
