package member

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/nomad"
)

// Cluster is what the agent needs of its own Nomad; *nomad.Client is one.
type Cluster interface {
	Nodes(ctx context.Context) ([]*api.NodeListStub, error)
	Node(ctx context.Context, id string) (*api.Node, error)
	SetNodeMeta(ctx context.Context, id string, meta map[string]*string) error
	Allocations(ctx context.Context, filter string) ([]*api.AllocationListStub, error)
	Allocation(ctx context.Context, id string) (*api.Allocation, error)
	Evaluation(ctx context.Context, id string) (*api.Evaluation, error)
	Deployment(ctx context.Context, id string) (*api.Deployment, error)
	Events(ctx context.Context) (<-chan *api.Events, error)
	EnsureNamespace(ctx context.Context, name, description string) error
	Jobs(ctx context.Context, filter string) ([]*api.JobListStub, error)
	Job(ctx context.Context, namespace, id string) (*api.Job, error)
	Plan(ctx context.Context, job *api.Job) (*api.JobPlanResponse, error)
	Register(ctx context.Context, job *api.Job, modifyIndex uint64) (*api.JobRegisterResponse, error)
	Deregister(ctx context.Context, namespace, id string, purge bool) (string, error)
	Evaluations(ctx context.Context, namespace, id string) ([]*api.Evaluation, error)
	Variable(ctx context.Context, namespace, path string) (*api.Variable, error)
	SetVariable(ctx context.Context, namespace, path string, items map[string]string) error
	DeleteVariable(ctx context.Context, namespace, path string) error
}

// jobKey names a job in the member's own words.
type jobKey struct{ namespace, id string }

// placed is a job that the agent registered for the pool.
type placed struct {
	job     *api.Job
	tag     tag
	stub    *api.JobListStub
	stopped bool
}

// snapshot is what the cluster had and ran at one moment. It is never changed once made.
type snapshot struct {
	nodes       []*api.Node
	allocations []*api.AllocationListStub // alive ones of everybody, and all of the pool's
	jobs        map[jobKey]*placed
}

// fetcher makes snapshots, reading again only what changed since the last one. It is used by one goroutine.
type fetcher struct {
	cluster Cluster
	words   words
	nodes   map[string]*api.Node
	jobs    map[jobKey]*placed
}

func newFetcher(cluster Cluster, w words) *fetcher {
	return &fetcher{cluster: cluster, words: w, nodes: map[string]*api.Node{}, jobs: map[jobKey]*placed{}}
}

// fetch reads the cluster.
func (f *fetcher) fetch(ctx context.Context) (*snapshot, error) {
	var group sync.WaitGroup
	var nodes []*api.NodeListStub
	var jobs []*api.JobListStub
	var errs [3]error
	result := &snapshot{}
	ours := fmt.Sprintf("Namespace matches `^%s.`", f.words.prefix)
	group.Go(func() { nodes, errs[0] = f.cluster.Nodes(ctx) })
	group.Go(func() { jobs, errs[1] = f.cluster.Jobs(ctx, ours) })
	group.Go(func() {
		alive := "ClientStatus == `running` or ClientStatus == `pending` or ClientStatus == `unknown`"
		result.allocations, errs[2] = f.cluster.Allocations(ctx, alive+" or "+ours)
	})
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	err := f.readNodes(ctx, nodes)
	if err != nil {
		return nil, err
	}
	err = f.readJobs(ctx, jobs)
	if err != nil {
		return nil, err
	}
	for _, stub := range nodes {
		if node := f.nodes[stub.ID]; node != nil {
			result.nodes = append(result.nodes, node)
		}
	}
	result.jobs = make(map[jobKey]*placed, len(f.jobs))
	for key, job := range f.jobs {
		result.jobs[key] = job
	}
	return result, nil
}

func (f *fetcher) readNodes(ctx context.Context, stubs []*api.NodeListStub) error {
	seen := make(map[string]bool, len(stubs))
	for _, stub := range stubs {
		seen[stub.ID] = true
		known := f.nodes[stub.ID]
		if known != nil && known.ModifyIndex == stub.ModifyIndex {
			continue
		}
		node, err := f.cluster.Node(ctx, stub.ID)
		if nomad.NotFound(err) { // purged since it was listed
			delete(seen, stub.ID)
			continue
		}
		if err != nil {
			return err
		}
		f.nodes[stub.ID] = node
	}
	for id := range f.nodes {
		if !seen[id] {
			delete(f.nodes, id)
		}
	}
	return nil
}

func (f *fetcher) readJobs(ctx context.Context, stubs []*api.JobListStub) error {
	seen := make(map[jobKey]bool, len(stubs))
	for _, stub := range stubs {
		key := jobKey{stub.Namespace, stub.ID}
		if !strings.HasPrefix(stub.Namespace, f.words.prefix) || stub.ParentID != "" {
			continue
		}
		seen[key] = true
		known := f.jobs[key]
		if known != nil && deref(known.job.JobModifyIndex, 0) == stub.JobModifyIndex {
			f.jobs[key] = &placed{job: known.job, tag: known.tag, stub: stub, stopped: stub.Stop}
			continue
		}
		job, err := f.cluster.Job(ctx, stub.Namespace, stub.ID)
		if nomad.NotFound(err) {
			delete(seen, key)
			continue
		}
		if err != nil {
			return err
		}
		label, err := readTag(job)
		if err != nil { // someone registered it by hand; it is not the agent's to touch
			delete(seen, key)
			continue
		}
		f.jobs[key] = &placed{job: job, tag: label, stub: stub, stopped: stub.Stop}
	}
	for key := range f.jobs {
		if !seen[key] {
			delete(f.jobs, key)
		}
	}
	return nil
}

// alive tells whether an allocation still holds its node's resources: until its client says that it ended.
func alive(a *api.AllocationListStub) bool {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return false
	}
	return true
}
