package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
)

// proxy passes a request on to a member's Nomad over its tunnel: streams and websockets too, each write as it comes.
// The user's token stays here; the member's agent uses its own, and checks what it lets through.
func (g *Gateway) proxy(w http.ResponseWriter, c *call, alias string) error {
	return g.proxyWith(w, c, alias, nil)
}

func (g *Gateway) proxyWith(w http.ResponseWriter, c *call, alias string, modify func(*http.Response) error) error {
	g.mu.Lock()
	tunnel := g.member(alias).session
	g.mu.Unlock()
	if tunnel == nil {
		return fail(http.StatusBadGateway, "no contact with member %s: its work goes on, try again when it is back", alias)
	}
	proxy := &httputil.ReverseProxy{
		Transport: tunnel.Transport(), FlushInterval: -1,
		ModifyResponse: func(response *http.Response) error {
			cleanHeaders(response)
			if modify == nil {
				return nil
			}
			return modify(response)
		},
		ErrorLog: g.logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", alias, alias
			for _, name := range []string{"X-Nomad-Token", "Authorization", "Cookie", "Origin", "Forwarded", "X-Forwarded-For", "Accept-Encoding"} {
				r.Out.Header.Del(name)
			}
			query := r.Out.URL.Query()
			query.Del("region") // a member calls its own region otherwise
			r.Out.URL.RawQuery = query.Encode()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, fmt.Sprintf("cannot reach member %s: %s", alias, err), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, c.Request)
	return nil
}

// owner finds the member that an allocation is on, and its stub. Allocation IDs are the members' own and pass through.
func (g *Gateway) owner(allocID string) (alias string, stub *api.AllocationListStub, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		if found := m.allocs[allocID]; found != nil {
			return m.alias, g.shown(m, found), true
		}
	}
	return "", nil, false
}

// findAlloc returns an allocation that the caller may read or, with write, change.
func (g *Gateway) findAlloc(c *call, write bool) (alias string, stub *api.AllocationListStub, err error) {
	alias, stub, ok := g.owner(c.PathValue("id"))
	if !ok {
		return "", nil, fail(http.StatusNotFound, "alloc not found")
	}
	if write {
		return alias, stub, g.canWrite(c, stub.Namespace)
	}
	return alias, stub, g.canRead(c, stub.Namespace)
}

// allocProxy passes on a request that names an allocation.
func (g *Gateway) allocProxy(write bool) handler {
	return func(w http.ResponseWriter, c *call) (any, error) {
		alias, _, err := g.findAlloc(c, write)
		if err != nil {
			return nil, err
		}
		return nil, g.proxy(w, c, alias)
	}
}

// allocCommand passes on a command about an allocation, and refuses those that the pool does not know.
func (g *Gateway) allocCommand(w http.ResponseWriter, c *call) (any, error) {
	write := true
	switch c.PathValue("command") {
	case "stats", "checks":
		write = false
	case "exec", "restart", "signal", "gc":
	default:
		return nil, unknownPath(c)
	}
	return g.allocProxy(write)(w, c)
}

func (g *Gateway) listAllocs(w http.ResponseWriter, c *call) (any, error) {
	visible, err := g.visible(c)
	if err != nil {
		return nil, err
	}
	g.wait(c, g.index.current)
	g.mu.Lock()
	var all []*api.AllocationListStub
	for _, m := range g.members {
		if c.region != "" && m.alias != c.region {
			continue
		}
		for _, stub := range m.allocs {
			all = append(all, g.shown(m, stub))
		}
	}
	g.mu.Unlock()
	var items []listed[*api.AllocationListStub]
	for _, stub := range all {
		if visible(stub.Namespace) {
			items = append(items, listed[*api.AllocationListStub]{
				show: stub, filter: stub, id: stub.ID, token: timeToken(uint64(stub.CreateTime), stub.ID),
			})
		}
	}
	return page(w, c, items)
}

// getAlloc reads an allocation from its member, or makes it from what is remembered while the member is silent.
func (g *Gateway) getAlloc(w http.ResponseWriter, c *call) (any, error) {
	alias, stub, err := g.findAlloc(c, false)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	away, restored := g.member(alias).away(), g.restoreAlloc(stub)
	g.mu.Unlock()
	if !away {
		return nil, g.proxyWith(w, c, alias, rewriteBody(g.rename(alias)))
	}
	return restored, nil
}

// restoreAlloc makes an allocation's full form from what is remembered of it. The caller holds mu.
func (g *Gateway) restoreAlloc(stub *api.AllocationListStub) *api.Allocation {
	var spec *api.Job
	if j := g.jobs[jobKey{stub.Namespace, stub.JobID}]; j != nil && j.record.Job != nil {
		spec = g.spec(j)
	}
	return &api.Allocation{
		ID: stub.ID, Namespace: stub.Namespace, EvalID: stub.EvalID, Name: stub.Name, NodeID: stub.NodeID, NodeName: stub.NodeName,
		JobID: stub.JobID, Job: spec, TaskGroup: stub.TaskGroup, AllocatedResources: stub.AllocatedResources,
		Resources: asked(spec, stub.TaskGroup), Metrics: &api.AllocationMetric{},
		DesiredStatus: stub.DesiredStatus, DesiredDescription: stub.DesiredDescription, ClientStatus: stub.ClientStatus,
		ClientDescription: stub.ClientDescription, TaskStates: stub.TaskStates, DeploymentStatus: stub.DeploymentStatus,
		CreateIndex: stub.CreateIndex, ModifyIndex: stub.ModifyIndex, CreateTime: stub.CreateTime, ModifyTime: stub.ModifyTime,
	}
}

// asked adds up what a group's tasks ask for; tools read these numbers without looking whether they are there.
func asked(spec *api.Job, group string) *api.Resources {
	cpu, memory, disk := 0, 0, 0
	if spec != nil {
		for _, tg := range spec.TaskGroups {
			if deref(tg.Name) != group {
				continue
			}
			if tg.EphemeralDisk != nil {
				disk = deref(tg.EphemeralDisk.SizeMB)
			}
			for _, task := range tg.Tasks {
				if task.Resources != nil {
					cpu += deref(task.Resources.CPU)
					memory += deref(task.Resources.MemoryMB)
				}
			}
		}
	}
	return &api.Resources{CPU: &cpu, MemoryMB: &memory, DiskMB: &disk}
}

// stopAlloc lets a member stop and replace an allocation, and remembers whose the evaluation is that the CLI will ask
// about.
func (g *Gateway) stopAlloc(w http.ResponseWriter, c *call) (any, error) {
	alias, stub, err := g.findAlloc(c, true)
	if err != nil {
		return nil, err
	}
	return nil, g.proxyWith(w, c, alias, func(response *http.Response) error {
		text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
		_ = response.Body.Close()
		response.Body = io.NopCloser(bytes.NewReader(text))
		if err != nil {
			return fmt.Errorf("cannot read the answer of %s: %w", alias, err)
		}
		var reply struct{ EvalID string }
		if json.Unmarshal(text, &reply) == nil && reply.EvalID != "" {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.evals.foreign(reply.EvalID, foreignEval{alias: alias, namespace: stub.Namespace})
		}
		return nil
	})
}

// proxyEval passes on a question about a member's own evaluation: one that a user was told of, or that an allocation
// names. err is what the search among the pool's own gave.
func (g *Gateway) proxyEval(w http.ResponseWriter, c *call, id string, err error) error {
	g.mu.Lock()
	from, ok := g.evals.members[id]
	if !ok {
		for _, m := range g.members {
			for _, stub := range m.allocs {
				if stub.EvalID == id {
					from, ok = foreignEval{alias: m.alias, namespace: stub.Namespace}, true
				}
			}
		}
	}
	g.mu.Unlock()
	if !ok {
		return err
	}
	if err := g.canRead(c, from.namespace); err != nil {
		return err
	}
	return g.proxyWith(w, c, from.alias, rewriteBody(g.rename(from.alias)))
}
