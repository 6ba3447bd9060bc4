package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Close stops the jobs and the agents. It fails if that was not in order or if anything is left afterwards, which it
// then removes.
func (n *Node) Close(ctx context.Context) error {
	err := n.stopJobs(ctx)
	// Before Nomad's client goes: nothing of a task's may need it to die.
	err = errors.Join(err, n.awaitClean(n.known()...))
	err = errors.Join(err, n.client.end(true), n.server.end(true))
	err = errors.Join(err, n.awaitEnded())
	return errors.Join(err, n.tearDown())
}

func (n *Node) stopJobs(ctx context.Context) error {
	if !n.client.running() || !n.server.running() {
		return nil
	}
	jobs, _, err := n.api.Jobs().List((&api.QueryOptions{Namespace: "*"}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot list the jobs: %w", err)
	}
	// After a bench there are hundreds, of which each takes a moment.
	const atOnce = 16
	var group errgroup.Group
	group.SetLimit(atOnce)
	errs := make([]error, len(jobs))
	for i, job := range jobs {
		group.Go(func() error {
			errs[i] = n.Stop(ctx, job.ID)
			return nil
		})
	}
	_ = group.Wait() // each job's own error is told
	return errors.Join(errs...)
}

// AwaitClean waits until nothing is left of allocations that were stopped.
func (n *Node) AwaitClean(allocs ...string) error { return n.awaitClean(allocs...) }

func (n *Node) awaitClean(allocs ...string) error {
	return eventually(func() []string { return n.Remains(allocs...) })
}

// awaitEnded waits until no process of the node's is left.
func (n *Node) awaitEnded() error {
	return eventually(func() []string {
		left, err := n.Processes()
		var text []string
		for _, p := range left {
			text = append(text, fmt.Sprintf("process %d: %s", p.PID, strings.Join(p.Args, " ")))
		}
		if err != nil {
			text = append(text, err.Error())
		}
		return text
	})
}

// eventually waits until nothing is left: the kernel takes its time with the dead.
func eventually(look func() []string) error {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollPause) {
		left = look()
		if len(left) == 0 {
			return nil
		}
	}
	return fmt.Errorf("this is left behind:\n  %s", strings.Join(left, "\n  "))
}

// tearDown removes whatever is there, in order or not.
func (n *Node) tearDown() error {
	err := errors.Join(n.client.end(false), n.server.end(false), n.killRest())
	mounts, mountsErr := n.mounts()
	err = errors.Join(err, mountsErr)
	for _, m := range mounts {
		err = errors.Join(err, unix.Unmount(m, unix.MNT_DETACH))
	}
	for _, id := range n.known() {
		netns := "/run/netns/" + id
		_ = unix.Unmount(netns, unix.MNT_DETACH)
		_ = os.Remove(netns)
	}
	for claim := range n.claims() {
		err = errors.Join(err, fmt.Errorf("the claim %s of user IDs is left behind", claim), os.Remove(claim))
	}
	if n.Registry != nil {
		err = errors.Join(err, n.Registry.Close())
	}
	if n.cgroups != nil {
		err = errors.Join(err, n.cgroups.release(n.known()))
	}
	if err != nil {
		n.showLogs()
	}
	return errors.Join(err, os.RemoveAll(n.Dir))
}

func (n *Node) showLogs() {
	out := n.options.Log
	if out == nil {
		out = os.Stderr
	}
	for _, role := range []string{"server", "client"} {
		fmt.Fprintf(out, "==> the end of the %s's log:\n%s", role, tail(filepath.Join(n.Dir, "logs", role+".log")))
	}
}

// Main runs a package's tests on one node: it starts it, hands it over, runs the tests and closes it. It returns the
// status for os.Exit.
func Main(tests interface{ Run() int }, options Options, use func(*Node)) int {
	ctx := context.Background()
	n, err := Start(ctx, options)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot start a node:", err)
		return 1
	}
	use(n)
	status := tests.Run()
	err = n.Close(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the node did not go down cleanly:", err)
		return 1
	}
	return status
}
