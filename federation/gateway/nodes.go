package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/hashicorp/nomad/api"
)

// memberNodes asks members for their nodes, all at the same time. It also tells which of them answered: one that is slow
// or away did not.
func (g *Gateway) memberNodes(ctx context.Context, query string, only string) (out []*api.NodeListStub, answered map[string]bool) {
	g.mu.Lock()
	var aliases []string
	for alias, m := range g.members {
		if !m.away() && (only == "" || only == alias) {
			aliases = append(aliases, alias)
		}
	}
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, g.settings.patience.nodes)
	defer cancel()
	var mu sync.Mutex
	answered = map[string]bool{}
	each(aliases, func(alias string) {
		var nodes []*api.NodeListStub
		err := g.get(ctx, alias, "/v1/nodes"+query, &nodes)
		if err != nil {
			g.logger.Warn("cannot list a member's nodes", "member", alias, "error", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		answered[alias] = true
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, node := range nodes[:min(len(nodes), maxMemberNodes)] {
			if node != nil && g.claimNode(node.ID, alias) {
				node.Address = "" // users reach nodes through the pool only
				out = append(out, node)
			}
		}
	})
	return out, answered
}

// listNodes shows the nodes of all members. Whoever may read jobs in the namespace they name may see what there is to
// run them on.
func (g *Gateway) listNodes(w http.ResponseWriter, c *call) (any, error) {
	err := g.canReadAny(c)
	if err != nil {
		return nil, err
	}
	g.wait(c, g.index.current)
	query := "?"
	for _, name := range []string{"resources", "os"} {
		if v := c.URL.Query().Get(name); v != "" {
			query += name + "=" + (map[bool]string{true: "true", false: "false"})[v == "true"] + "&"
		}
	}
	nodes, answered := g.memberNodes(c.Context(), query, c.region)
	nodes = append(nodes, g.rememberedNodes(c, answered)...)
	var items []listed[*api.NodeListStub]
	for _, node := range nodes {
		items = append(items, listed[*api.NodeListStub]{show: node, filter: node, id: node.ID, token: node.ID})
	}
	return page(w, c, items)
}

// canReadAny checks the right to see what belongs to no namespace.
func (g *Gateway) canReadAny(c *call) error {
	namespace := c.namespace
	if namespace == "*" {
		namespace = "default"
	}
	return g.canRead(c, namespace)
}

// nodeOwner finds the member that a node is in, asking all of them once if it was never seen.
func (g *Gateway) nodeOwner(ctx context.Context, id string) (string, bool) {
	g.mu.Lock()
	alias, ok := g.nodes[id]
	g.mu.Unlock()
	if ok {
		return alias, true
	}
	_, _ = g.memberNodes(ctx, "?prefix="+hexOnly(id), "")
	g.mu.Lock()
	defer g.mu.Unlock()
	alias, ok = g.nodes[id]
	return alias, ok
}

// hexOnly keeps what a UUID may hold, so that an ID from a path can stand in a query.
func hexOnly(id string) string {
	out := make([]rune, 0, len(id))
	for _, r := range id {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r == '-' {
			out = append(out, r)
		}
	}
	return string(out)
}

// nodeProxy passes on a question about a node. Nodes belong to the members' owners: nothing about them can be changed
// through the pool.
func (g *Gateway) nodeProxy(w http.ResponseWriter, c *call) (any, error) {
	err := g.canReadAny(c)
	if err != nil {
		return nil, err
	}
	id := c.PathValue("id")
	if id == "" {
		id = c.URL.Query().Get("node_id")
	}
	alias, ok := g.nodeOwner(c.Context(), id)
	if !ok {
		return nil, fail(http.StatusNotFound, "node not found")
	}
	if c.URL.Path == "/v1/client/stats" {
		return nil, g.proxy(w, c, alias)
	}
	if node, ok := g.rememberedNode(alias, id); ok {
		return node, nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), g.settings.patience.ask)
	defer cancel()
	var node *api.Node
	err = g.get(ctx, alias, "/v1/node/"+hexOnly(id), &node)
	var refused *refusal
	switch {
	case errors.As(err, &refused) && refused.status == http.StatusNotFound, err == nil && node == nil:
		return nil, fail(http.StatusNotFound, "node not found")
	case err != nil:
		return nil, fail(http.StatusBadGateway, "cannot read the node at member %s: %s", alias, err)
	}
	// Tools would call this address past the pool, with the user's token for whoever listens there.
	node.HTTPAddr = ""
	return node, nil
}

// nodeAllocs lists a node's pool allocations, those of namespaces that the caller may read. Those of a member that does
// not answer come from memory.
func (g *Gateway) nodeAllocs(_ http.ResponseWriter, c *call) (any, error) {
	err := g.canReadAny(c)
	if err != nil {
		return nil, err
	}
	id := c.PathValue("id")
	alias, ok := g.nodeOwner(c.Context(), id)
	if !ok {
		return nil, fail(http.StatusNotFound, "node not found")
	}
	g.wait(c, g.index.current)
	var all []*api.Allocation
	err = g.get(c.Context(), alias, "/v1/node/"+hexOnly(id)+"/allocations", &all)
	if err != nil {
		g.logger.Debug("cannot list a node's allocations, answering from memory", "member", alias, "error", err)
		all = g.rememberedAllocs(alias, id)
	} else {
		g.renameAll(alias, all)
	}
	star := *c
	star.namespace = "*"
	visible, err := g.visible(&star)
	if err != nil {
		return nil, err
	}
	out := []*api.Allocation{}
	for _, alloc := range all {
		if alloc != nil && visible(alloc.Namespace) {
			out = append(out, alloc)
		}
	}
	return out, nil
}
