package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Run registers a jobspec, in which IMAGES stands for the address of the node's registry, and returns the job's ID.
func (n *Node) Run(ctx context.Context, jobspec string) (string, error) {
	job, err := n.api.Jobs().ParseHCL(strings.ReplaceAll(jobspec, "IMAGES", n.Registry.Address()), true)
	if err != nil {
		return "", fmt.Errorf("cannot read the jobspec: %w", err)
	}
	return *job.ID, n.RunJob(ctx, job)
}

// RunJob registers a job.
func (n *Node) RunJob(ctx context.Context, job *api.Job) error {
	if job.Namespace != nil {
		n.mu.Lock()
		n.namespaces[*job.ID] = *job.Namespace
		n.mu.Unlock()
	}
	_, _, err := n.api.Jobs().Register(job, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot register job %s: %w", *job.ID, err)
	}
	return nil
}

// namespace is a job's, "" for Nomad's default.
func (n *Node) namespace(job string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.namespaces[job]
}

// Await waits until one of a job's allocations, newest first, is as wanted, and returns it. It looks whenever one of
// them has changed.
func (n *Node) Await(ctx context.Context, job, what string, wanted func(*api.Allocation) bool) (*api.Allocation, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last []*api.Allocation
	query := (&api.QueryOptions{Namespace: n.namespace(job)}).WithContext(ctx)
	for {
		stubs, meta, err := n.api.Jobs().Allocations(job, true, query)
		if err != nil {
			return nil, fmt.Errorf("waited in vain until job %s is %s: %w\n%s", job, what, err, n.describe(last))
		}
		query.WaitIndex = meta.LastIndex
		last, err = n.details(ctx, stubs)
		if err != nil {
			return nil, err
		}
		for _, a := range last {
			if wanted(a) {
				return a, nil
			}
		}
	}
}

// details reads allocations whole, newest first, and remembers them.
func (n *Node) details(ctx context.Context, stubs []*api.AllocationListStub) ([]*api.Allocation, error) {
	var all []*api.Allocation
	for _, stub := range stubs {
		n.know(stub.ID)
		a, _, err := n.api.Allocations().Info(stub.ID, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("cannot read allocation %s: %w", stub.ID, err)
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *api.Allocation) int { return cmp.Compare(b.CreateIndex, a.CreateIndex) })
	return all, nil
}

// AwaitStatus waits until one of a job's allocations has a client status.
func (n *Node) AwaitStatus(ctx context.Context, job, status string) (*api.Allocation, error) {
	return n.Await(ctx, job, status, func(a *api.Allocation) bool { return a.ClientStatus == status })
}

// AwaitEvent waits until a task of one of a job's allocations has had a kind of event, such as api.TaskTerminated, that
// matches; nil matches all.
func (n *Node) AwaitEvent(ctx context.Context, job, kind string, match func(*api.TaskEvent) bool) (*api.Allocation, *api.TaskEvent, error) {
	var found *api.TaskEvent
	a, err := n.Await(ctx, job, "at an event "+kind, func(a *api.Allocation) bool {
		for _, event := range Events(a, kind) {
			if match == nil || match(event) {
				found = event
				return true
			}
		}
		return false
	})
	return a, found, err
}

// Events lists the events of a kind that an allocation's tasks have had, all if kind is "".
func Events(a *api.Allocation, kind string) []*api.TaskEvent {
	var events []*api.TaskEvent
	for _, state := range a.TaskStates {
		for _, event := range state.Events {
			if kind == "" || event.Type == kind {
				events = append(events, event)
			}
		}
	}
	return events
}

func (n *Node) describe(allocations []*api.Allocation) string {
	var text strings.Builder
	for _, a := range allocations {
		fmt.Fprintf(&text, "  allocation %s is %s, wanted %s\n", a.ID, a.ClientStatus, a.DesiredStatus)
		for _, event := range Events(a, "") {
			fmt.Fprintf(&text, "    %s: %s\n", event.Type, event.DisplayMessage)
		}
	}
	return text.String()
}

// Stop stops a job, waits until Nomad's client has forgotten its allocations, files and all, and purges it. It is not
// purged at once: Nomad would forget an allocation whose client it has not yet told.
func (n *Node) Stop(ctx context.Context, job string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stubs, _, err := n.api.Jobs().Allocations(job, true, (&api.QueryOptions{Namespace: n.namespace(job)}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot list the allocations of job %s: %w", job, err)
	}
	write := (&api.WriteOptions{Namespace: n.namespace(job)}).WithContext(ctx)
	_, _, err = n.api.Jobs().Deregister(job, false, write)
	if err != nil {
		return fmt.Errorf("cannot stop job %s: %w", job, err)
	}
	for _, stub := range stubs {
		n.know(stub.ID)
		err = n.awaitEnd(ctx, stub.ID)
		if err == nil {
			err = n.collect(ctx, stub.ID)
		}
		if err != nil {
			return err
		}
	}
	_, _, err = n.api.Jobs().Deregister(job, true, write)
	if err != nil {
		return fmt.Errorf("cannot purge job %s: %w", job, err)
	}
	return nil
}

// awaitEnd waits until an allocation's tasks have ended.
func (n *Node) awaitEnd(ctx context.Context, id string) error {
	query := (&api.QueryOptions{}).WithContext(ctx)
	for {
		a, meta, err := n.api.Allocations().Info(id, query)
		if err != nil && strings.Contains(err.Error(), "alloc not found") {
			return nil // the server has forgotten it with its job
		}
		if err != nil {
			return fmt.Errorf("waited in vain for the end of allocation %s: %w", id, err)
		}
		switch a.ClientStatus {
		case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
			return nil
		}
		query.WaitIndex = meta.LastIndex
	}
}

// collect has Nomad's client remove what it keeps of an allocation that has ended.
func (n *Node) collect(ctx context.Context, id string) error {
	dir := filepath.Join(n.data("client"), "alloc", id)
	return n.client.await(ctx, "allocation "+id+" is removed", func(ctx context.Context) error {
		_, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		_ = n.api.Allocations().GC(&api.Allocation{ID: id, NodeID: n.id}, (&api.QueryOptions{}).WithContext(ctx))
		return errors.New("its directory is there")
	})
}

// Logs reads what a task has printed so far, "stdout" or "stderr", from the file that Nomad's log collector writes.
func (n *Node) Logs(alloc, task, kind string) string {
	text, err := os.ReadFile(filepath.Join(n.data("client"), "alloc", alloc, "alloc", "logs", task+"."+kind+".0"))
	if err != nil {
		return ""
	}
	return string(text)
}

// AwaitLog waits until a task has printed something.
func (n *Node) AwaitLog(ctx context.Context, alloc, task, want string) (string, error) {
	text := ""
	err := n.server.await(ctx, "task "+task+" has printed "+want, func(context.Context) error {
		text = n.Logs(alloc, task, "stdout")
		if !strings.Contains(text, want) {
			return fmt.Errorf("it has printed %q and %q", text, n.Logs(alloc, task, "stderr"))
		}
		return nil
	})
	return text, err
}

// Nomad runs the CLI and returns its output, standard error included.
func (n *Node) Nomad(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.tools.nomad, args...)
	cmd.Env = append(n.environment(), "NOMAD_ADDR="+n.URL())
	output, err := cmd.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("nomad %s: %w: %s", strings.Join(args, " "), err, output)
	}
	return string(output), nil
}

// ExecCLI runs a command in a task with the CLI, without a terminal.
func (n *Node) ExecCLI(ctx context.Context, alloc, task string, command ...string) (string, error) {
	args := append([]string{"alloc", "exec", "-i=false", "-t=false", "-task", task, alloc}, command...)
	return n.Nomad(ctx, args...)
}

// Exec runs a command in a task through the API and returns its exit code.
func (n *Node) Exec(ctx context.Context, alloc *api.Allocation, task string, tty bool, stdin io.Reader, stdout, stderr io.Writer, command ...string) (int, error) {
	return n.api.Allocations().Exec(ctx, alloc, task, tty, command, stdin, stdout, stderr, nil, nil)
}
