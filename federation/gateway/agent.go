package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/api/contexts"

	"pangaea/federation/pool"
)

// build is the Nomad version whose API the gateway speaks; tools choose what they send by it.
const build = "1.11.3"

// self describes the gateway as an agent that is no client: "node status -self" has its own words for that.
func (g *Gateway) self(_ http.ResponseWriter, _ *call) (any, error) {
	return &api.AgentSelf{
		Config: map[string]any{
			"Region": "global", "Datacenter": "pool", "Version": map[string]any{"Version": build}, "ACL": map[string]any{"Enabled": true},
			"UI": map[string]any{"Enabled": false, "ShowCLIHints": false},
		},
		Member: api.AgentMember{Name: "pool", Status: "alive", Tags: map[string]string{"build": build, "region": "global", "role": "pangaea"}},
		Stats:  map[string]map[string]string{"nomad": {"server": "true"}},
	}, nil
}

// members shows the pool's members as servers of regions of their own.
func (g *Gateway) agentMembers(_ http.ResponseWriter, c *call) (any, error) {
	err := g.canReadAny(c)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := api.ServerMembers{ServerName: "pool", ServerRegion: "global", ServerDC: "pool"}
	for _, m := range g.members {
		status := "alive"
		if m.state != pool.MemberReady {
			status = string(m.state)
		}
		out.Members = append(out.Members, &api.AgentMember{
			Name: m.alias, Addr: or(m.place.Country, "-"), Status: status, ProtocolMin: 1, ProtocolMax: 1, ProtocolCur: 1,
			Tags: map[string]string{
				"region": m.alias, "dc": or(m.place.Region, "-"), "build": or(m.version, "-"), "role": "pangaea", "port": "0", "raft_vsn": "-",
				"country": m.place.Country, "continent": m.place.Continent,
			},
		})
	}
	slices.SortFunc(out.Members, func(a, b *api.AgentMember) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// statusLeader answers from memory whatever the region: a dead member must not make "server members" wait for it.
func (g *Gateway) statusLeader(_ http.ResponseWriter, c *call) (any, error) {
	if c.region == "" {
		return g.settings.advertiseHTTP, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return or(g.member(c.region).place.Country, "-") + ":0", nil
}

func (g *Gateway) statusPeers(_ http.ResponseWriter, _ *call) (any, error) {
	return []string{g.settings.advertiseHTTP}, nil
}

func (g *Gateway) regions(_ http.ResponseWriter, _ *call) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := []string{"global"}
	for alias := range g.members {
		out = append(out, alias)
	}
	slices.Sort(out[1:])
	return out, nil
}

// health is for load balancers.
func (g *Gateway) health(_ http.ResponseWriter, _ *call) (any, error) {
	return map[string]any{"server": map[string]any{"ok": true, "message": "ok"}}, nil
}

// listNamespaces shows the namespaces that have jobs, and "default". In the pool a namespace is no object of its own:
// it is there for whoever has a token whose rules name it.
func (g *Gateway) listNamespaces(w http.ResponseWriter, c *call) (any, error) {
	names := map[string]bool{"default": true, c.namespace: true}
	delete(names, "*")
	g.mu.Lock()
	for key, j := range g.jobs {
		if j.known {
			names[key.namespace] = true
		}
	}
	g.mu.Unlock()
	star := *c
	star.namespace = "*"
	visible, err := g.visible(&star)
	if err != nil {
		return nil, err
	}
	var items []listed[*api.Namespace]
	for name := range names {
		if visible(name) {
			ns := g.namespace(name)
			items = append(items, listed[*api.Namespace]{show: ns, filter: ns, id: name, token: name})
		}
	}
	return page(w, c, items)
}

func (g *Gateway) namespace(name string) *api.Namespace {
	index := g.index.current()
	ns := &api.Namespace{Name: name, CreateIndex: 1, ModifyIndex: index}
	if name == "default" {
		ns.Description = "Default shared namespace"
	}
	return ns
}

func (g *Gateway) getNamespace(_ http.ResponseWriter, c *call) (any, error) {
	name := c.PathValue("id")
	err := g.canRead(c, name)
	if err != nil {
		return nil, err
	}
	return g.namespace(name), nil
}

// searchLimit is how many matches of one kind an answer holds, as Nomad has it.
const searchLimit = 20

func (g *Gateway) search(_ http.ResponseWriter, c *call) (any, error) {
	var request struct {
		Prefix    string
		Context   contexts.Context
		Namespace string
	}
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	c.namespace = or(request.Namespace, c.namespace)
	visible, err := g.visible(c)
	if err != nil {
		return nil, err
	}
	found := map[contexts.Context][]string{}
	for _, one := range g.names(request.Prefix) {
		if one.kind == contexts.Nodes || visible(one.namespace) {
			found[one.kind] = append(found[one.kind], one.id)
		}
	}
	return searchReply(found, request.Context), nil
}

// named is something that a search may find.
type named struct {
	kind          contexts.Context
	id, namespace string
}

// names lists everything whose ID begins with a prefix.
func (g *Gateway) names(prefix string) (out []named) {
	add := func(kind contexts.Context, id, namespace string) {
		if id != "" && strings.HasPrefix(id, prefix) {
			out = append(out, named{kind, id, namespace})
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, j := range g.jobs {
		if j.known {
			add(contexts.Jobs, key.id, key.namespace)
			add(contexts.Deployments, g.deploymentID(j), key.namespace)
		}
	}
	for id, e := range g.evals.byID {
		add(contexts.Evals, id, e.Namespace)
	}
	for _, m := range g.members {
		for id, stub := range m.allocs {
			add(contexts.Allocs, id, stub.Namespace)
		}
	}
	for id := range g.nodes {
		add(contexts.Nodes, id, "")
	}
	return out
}

func searchReply(found map[contexts.Context][]string, wanted contexts.Context) *api.SearchResponse {
	out := &api.SearchResponse{Matches: map[contexts.Context][]string{}, Truncations: map[contexts.Context]bool{}}
	for kind, ids := range found {
		if wanted != contexts.All && wanted != "" && wanted != kind {
			continue
		}
		slices.Sort(ids)
		out.Truncations[kind] = len(ids) > searchLimit
		out.Matches[kind] = ids[:min(len(ids), searchLimit)]
	}
	return out
}
