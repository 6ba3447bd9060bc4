package node

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
)

// idRegistry is where the driver keeps its claims of user IDs, for all of this machine.
const idRegistry = "/run/pangaea/idranges"

// Remains lists what is left on this machine of allocations: processes, cgroups, mounts, network namespaces and
// interfaces, loop devices, claims of user IDs, files of the driver's, and what the agents and plugins have open.
func (n *Node) Remains(allocs ...string) []string {
	var left []string
	processes, err := n.Processes()
	for _, id := range allocs {
		for _, p := range processes {
			// A log collector has no sign of its allocation but goes with it, by the time that its directory has.
			if strings.Contains(p.Cgroups, id) || strings.Contains(strings.Join(p.Args, " "), "/"+id[:8]+"-") {
				left = append(left, fmt.Sprintf("process %d: %s", p.PID, strings.Join(p.Args, " ")))
			}
		}
		for _, pattern := range []string{
			cgroupRoot + "/*/nomad/*/" + id + "*", cgroupRoot + "/*/nomad/" + id + "*", cgroupRoot + "/nomad.slice/*/" + id + "*",
			"/run/netns/" + id, filepath.Join(n.StateDir(), "tasks", id[:8]+"-*"), filepath.Join(n.data("client"), "alloc", id),
		} {
			found, globErr := filepath.Glob(pattern)
			left, err = append(left, found...), errors.Join(err, globErr)
		}
	}
	mounts, mountsErr := n.mounts()
	interfaces, interfacesErr := interfaces()
	for kind, found := range map[string][]string{
		"mount": mounts, "network interface": interfaces, "loop device": n.loops(),
		"claim of user IDs": slices.Collect(maps.Values(n.claims())), "open file": n.openFiles(processes),
	} {
		for _, name := range found {
			if slices.ContainsFunc(allocs, func(id string) bool { return strings.Contains(name, id[:8]) }) {
				left = append(left, kind+" "+name)
			}
		}
	}
	err = errors.Join(err, mountsErr, interfacesErr)
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}

// mounts lists the mounts that are the node's: below its directory, or a task's root elsewhere.
func (n *Node) mounts() ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot list mounts: %w", err)
	}
	defer file.Close()
	var found []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		// The driver mounts tasks' root file systems in /run, with their writable layer below its state directory.
		if len(fields) > 4 && strings.Contains(scanner.Text(), n.Dir+"/") {
			found = append(found, fields[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(found)))
	return found, scanner.Err()
}

// interfaces lists the network interfaces that belong to tasks: the driver writes whose each is.
func interfaces() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list network interfaces: %w", err)
	}
	var found []string
	for _, link := range links {
		if link.Attrs().Alias != "" {
			found = append(found, link.Attrs().Name+" of "+link.Attrs().Alias)
		}
	}
	return found, nil
}

// loops lists what lies on loop devices that are the node's.
func (n *Node) loops() []string {
	devices, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var found []string
	for _, device := range devices {
		file, _ := os.ReadFile(device) // one that goes meanwhile is not left
		if strings.Contains(string(file), n.Dir+"/") {
			found = append(found, strings.TrimSpace(string(file)))
		}
	}
	return found
}

// claims are those of user IDs that are the node's, with the task's directory of each.
func (n *Node) claims() map[string]string {
	links, _ := filepath.Glob(idRegistry + "/*")
	found := map[string]string{}
	for _, link := range links {
		owner, err := os.Readlink(link)
		if err == nil && strings.HasPrefix(owner, n.Dir+"/") {
			found[link] = owner
		}
	}
	return found
}

// openFiles lists what agents and plugins have open below the node's directory: what runs for longer than a task.
func (n *Node) openFiles(processes []Process) []string {
	var found []string
	for _, p := range processes {
		if !strings.HasPrefix(p.Args[0], filepath.Join(n.Dir, "plugins")+"/") && p.PID != n.ClientPID() && p.PID != n.ServerPID() {
			continue
		}
		for _, file := range OpenFiles(p.PID) {
			if strings.HasPrefix(file, n.Dir+"/") {
				found = append(found, fmt.Sprintf("%s, by process %d: %s", file, p.PID, strings.Join(p.Args, " ")))
			}
		}
	}
	return found
}

// OpenFiles lists what a process has open, as the kernel shows it: paths, and names like "pipe:[7]" of what has none.
func OpenFiles(pid int) []string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var found []string
	for _, link := range links {
		file, err := os.Readlink(link)
		if err == nil { // or it was just closed
			found = append(found, file)
		}
	}
	return found
}
