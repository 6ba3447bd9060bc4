package member

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
)

// fakeCluster is a Nomad in memory: it keeps jobs and counts what it was asked.
type fakeCluster struct {
	mu          sync.Mutex
	nodes       []*api.Node
	allocations []*api.AllocationListStub
	jobs        map[jobKey]*api.Job
	variables   map[string]*api.Variable
	meta        map[string]map[string]*string
	index       uint64
	err         error // of everything, when set
	refuse      error // of registrations, when set
	stopped     []jobKey
	purged      []jobKey
	failed      map[string]*api.AllocationMetric // of every plan
	registered  int
	renewals    int
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		jobs: map[jobKey]*api.Job{}, variables: map[string]*api.Variable{}, meta: map[string]map[string]*string{}, index: 10,
	}
}

// missing is Nomad's own answer for a thing that is not there, as its client reports it.
func missing() error { return fakeAnswer(http.StatusNotFound) }

func (f *fakeCluster) Nodes(context.Context) ([]*api.NodeListStub, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*api.NodeListStub, 0, len(f.nodes))
	for _, node := range f.nodes {
		list = append(list, &api.NodeListStub{ID: node.ID, ModifyIndex: node.ModifyIndex})
	}
	return list, f.err
}

func (f *fakeCluster) Node(_ context.Context, id string) (*api.Node, error) {
	for _, node := range f.nodes {
		if node.ID == id {
			return node, f.err
		}
	}
	return nil, missing()
}

func (f *fakeCluster) SetNodeMeta(_ context.Context, id string, meta map[string]*string) error {
	f.meta[id] = meta
	return f.err
}

func (f *fakeCluster) Allocations(context.Context, string) ([]*api.AllocationListStub, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*api.AllocationListStub(nil), f.allocations...), f.err
}

func (f *fakeCluster) Allocation(context.Context, string) (*api.Allocation, error) {
	return nil, missing()
}

func (f *fakeCluster) Evaluation(context.Context, string) (*api.Evaluation, error) {
	return nil, missing()
}

func (f *fakeCluster) Deployment(context.Context, string) (*api.Deployment, error) {
	return nil, missing()
}

func (f *fakeCluster) Events(ctx context.Context) (<-chan *api.Events, error) {
	events := make(chan *api.Events)
	go func() { // ends with the context
		<-ctx.Done()
		close(events)
	}()
	return events, nil
}

func (f *fakeCluster) EnsureNamespace(context.Context, string, string) error { return f.err }

func (f *fakeCluster) Jobs(context.Context, string) ([]*api.JobListStub, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*api.JobListStub, 0, len(f.jobs))
	for key, job := range f.jobs {
		list = append(list, &api.JobListStub{
			ID: key.id, Namespace: key.namespace, JobModifyIndex: *job.JobModifyIndex, Stop: deref(job.Stop, false),
			JobSummary: &api.JobSummary{JobID: key.id, Namespace: key.namespace, ModifyIndex: *job.JobModifyIndex},
		})
	}
	return list, f.err
}

func (f *fakeCluster) Job(_ context.Context, namespace, id string) (*api.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	job := f.jobs[jobKey{namespace, id}]
	if job == nil {
		return nil, missing()
	}
	return job, f.err
}

func (f *fakeCluster) Plan(context.Context, *api.Job) (*api.JobPlanResponse, error) {
	return &api.JobPlanResponse{FailedTGAllocs: f.failed}, f.err
}

func (f *fakeCluster) Register(_ context.Context, job *api.Job, index uint64) (*api.JobRegisterResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	key := jobKey{*job.Namespace, *job.ID}
	if old := f.jobs[key]; (old == nil && index != 0) || (old != nil && *old.JobModifyIndex != index) {
		return nil, fmt.Errorf("Enforcing job modify index %d", index)
	}
	f.index++
	f.registered++
	kept := *job
	kept.JobModifyIndex = ptr(f.index)
	f.jobs[key] = &kept
	return &api.JobRegisterResponse{EvalID: fmt.Sprintf("eval-%d", f.index), JobModifyIndex: f.index}, f.err
}

func (f *fakeCluster) Deregister(_ context.Context, namespace, id string, purge bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := jobKey{namespace, id}
	f.stopped = append(f.stopped, key)
	if purge {
		f.purged = append(f.purged, key)
		delete(f.jobs, key)
		return "eval-purge", f.err
	}
	if job := f.jobs[key]; job != nil {
		f.index++
		kept := *job
		kept.Stop, kept.JobModifyIndex = ptr(true), ptr(f.index)
		f.jobs[key] = &kept
	}
	return "eval-stop", f.err
}

func (f *fakeCluster) Evaluations(_ context.Context, namespace, id string) ([]*api.Evaluation, error) {
	job := f.jobs[jobKey{namespace, id}]
	return []*api.Evaluation{
		{ID: "other", JobModifyIndex: 1},
		{ID: fmt.Sprintf("eval-%d", *job.JobModifyIndex), JobModifyIndex: *job.JobModifyIndex},
	}, nil
}

func (f *fakeCluster) Variable(_ context.Context, namespace, path string) (*api.Variable, error) {
	return f.variables[namespace+" "+path], nil
}

func (f *fakeCluster) SetVariable(_ context.Context, namespace, path string, items map[string]string) error {
	f.renewals++
	f.variables[namespace+" "+path] = &api.Variable{Items: items}
	return f.err
}

func (f *fakeCluster) DeleteVariable(_ context.Context, namespace, path string) error {
	delete(f.variables, namespace+" "+path)
	return f.err
}

// bench is an agent over a fake cluster, with clocks that stand still.
type bench struct {
	*Agent
	t       *testing.T
	cluster *fakeCluster
	wall    time.Time
	boot    time.Duration
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, cluster: newFakeCluster(), wall: time.Unix(1_800_000_000, 0), boot: time.Hour}
	b.Agent = newAgent(testConfig(), b.cluster, func(func(*http.Response) error) http.Handler { return http.NotFoundHandler() },
		hclog.NewNullLogger())
	b.book.now = func() time.Time { return b.wall }
	b.placements.now = b.book.now
	b.contact = newContact(func() time.Duration { return b.boot })
	t.Cleanup(b.relay.Close)
	return b
}

// refresh reads the fake cluster once.
func (b *bench) refresh() *snapshot {
	b.t.Helper()
	s, err := b.watcher.fetcher.fetch(b.t.Context())
	must.NoError(b.t, err)
	b.watcher.publish(s, false)
	return s
}

// gpuNode is a node with GPUs of one model.
func gpuNode(id string, gpus int) *api.Node {
	node := &api.Node{
		ID: id, Name: "host-" + id, HTTPAddr: "10.1.2.3:4646", Datacenter: "dc1", NodePool: "default", Status: "ready",
		SchedulingEligibility: "eligible", ModifyIndex: 1,
		Attributes: map[string]string{
			"unique.hostname": "host-" + id, "kernel.name": "linux", "nomad.advertise.address": "10.1.2.3:4646",
			"consul.dns.addr": "fd00::1", "proxy": "http://10.9.8.7/x",
		},
		Meta:        map[string]string{"rack": "r1", "unique.key": "u"},
		Links:       map[string]string{"aws.ec2": "i-123"},
		HostVolumes: map[string]*api.HostVolumeInfo{"data": {Path: "/srv/owner"}},
		Drivers:     map[string]*api.DriverInfo{"runc": {Detected: true, Healthy: true, UpdateTime: time.Now()}},
		NodeResources: &api.NodeResources{
			Cpu: api.NodeCpuResources{CpuShares: 4000}, Memory: api.NodeMemoryResources{MemoryMB: 8000},
			Disk:     api.NodeDiskResources{DiskMB: 50_000},
			Networks: []*api.NetworkResource{{Mode: "host", IP: "10.1.2.3", CIDR: "10.1.2.3/32"}},
		},
		ReservedResources: &api.NodeReservedResources{Cpu: api.NodeReservedCpuResources{CpuShares: 1000}},
	}
	device := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "A100"}
	for i := range gpus {
		device.Instances = append(device.Instances, &api.NodeDevice{ID: fmt.Sprintf("GPU-%s-%d", id, i), Healthy: true})
	}
	node.NodeResources.Devices = []*api.NodeDeviceResource{device}
	return node
}

// gpuJob asks for one GPU for each allocation.
func gpuJob(id string, count int) *api.Job {
	job := shellJob(id, count, "true")
	job.TaskGroups[0].Tasks[0].Resources.Devices = []*api.RequestedDevice{{Name: "nvidia/gpu", Count: ptr(uint64(1))}}
	return job
}

func share(count, offset, total int) map[string]pool.GroupShare {
	return map[string]pool.GroupShare{"web": {Count: count, Offset: offset, Total: total}}
}
