//go:build faults

package faults

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/shoenig/test/must"
	"github.com/vishvananda/netlink"

	"pangaea/e2e/node"
)

// rest is what is there while no task is: of what has no task's name on it.
type rest struct {
	interfaces, tables []string
	// plugins has what each plugin has open, and how often.
	plugins map[string]map[string]int
}

func atRest(t *testing.T) rest {
	t.Helper()
	r := rest{plugins: map[string]map[string]int{}}
	links, err := netlink.LinkList()
	must.NoError(t, err)
	for _, link := range links {
		name, _, waits := strings.Cut(link.Attrs().Name, "-")
		if waits {
			name += "-N" // the next task's, whichever number it has
		}
		r.interfaces = append(r.interfaces, name)
	}
	conn, err := nftables.New()
	must.NoError(t, err)
	tables, err := conn.ListTables()
	must.NoError(t, err)
	for _, table := range tables {
		r.tables = append(r.tables, table.Name)
	}
	for _, name := range []string{"pangaea-driver", "pangaea-device"} {
		r.plugins[name] = open(t, pluginPID(t, name))
	}
	return r
}

// open counts what a process has open. Numbers tell sockets, pipes and files of the same purpose apart, and are left out.
func open(t *testing.T, pid int) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, file := range node.OpenFiles(pid) {
		// The image store keeps a user namespace, up to a number, for each range of IDs that it has met.
		if !strings.HasPrefix(file, "user:") {
			count[regexp.MustCompile(`[0-9]+`).ReplaceAllString(file, "N")]++
		}
	}
	return count
}

// more tells what there is now that was not there before.
func (r rest) more(before rest) []string {
	var all []string
	tell := func(what string, now, then map[string]int) {
		for _, name := range slices.Sorted(maps.Keys(now)) {
			if now[name] > then[name] {
				all = append(all, fmt.Sprintf("%s: %d of %s, %d before", what, now[name], name, then[name]))
			}
		}
	}
	tell("network interfaces", tally(r.interfaces), tally(before.interfaces))
	tell("nftables", tally(r.tables), tally(before.tables))
	for name := range r.plugins {
		tell(name+" has open", r.plugins[name], before.plugins[name])
	}
	return all
}

func tally(names []string) map[string]int {
	count := map[string]int{}
	for _, name := range names {
		count[name]++
	}
	return count
}

var (
	restOnce   sync.Once
	restBefore rest
)

// known is the rest after a task of each kind has lost its shim and ended: what is opened once is there.
func known(t *testing.T) rest {
	t.Helper()
	restOnce.Do(func() {
		few(t)
		restBefore = atRest(t)
	})
	return restBefore
}

// few has a task of each kind lose its shim and end.
func few(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	for _, k := range kinds() {
		w := newTask(t, fmt.Sprint("f", serial.Add(1)), k)
		all.Go(func() {
			w.run()
			w.awaitStarted()
			signalAll(w, w.shims(), syscall.SIGKILL)
			w.awaitLife(1)
			w.write("exit", "0")
			w.awaitExit(0)
			w.end()
		})
	}
	all.Wait()
}

// nothingMore waits until there is nothing that was not there before, and fails the test if that never comes.
func nothingMore(t *testing.T, before rest) {
	t.Helper()
	var more []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		more = atRest(t).more(before)
		if len(more) == 0 {
			return
		}
	}
	t.Fatalf("with no task there, this is left:\n  %s", strings.Join(more, "\n  "))
}

// The plugins hold descriptors of running tasks, and none of others, whatever they lost meanwhile; and of the tasks'
// networks nothing is left.
func TestRootDescriptors(t *testing.T) {
	before := known(t)
	for range 2 {
		few(t)
	}
	nothingMore(t, before)
}

// pluginPID is a plugin's process.
func pluginPID(t *testing.T, name string) int {
	t.Helper()
	pids, err := shared.Plugin(name)
	must.NoError(t, err)
	must.Len(t, 1, pids)
	return pids[0]
}
