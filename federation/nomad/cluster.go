package nomad

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"
)

func query(ctx context.Context, namespace string) *api.QueryOptions {
	return (&api.QueryOptions{Namespace: namespace}).WithContext(ctx)
}

func write(ctx context.Context, namespace string) *api.WriteOptions {
	return (&api.WriteOptions{Namespace: namespace}).WithContext(ctx)
}

// Nodes lists the cluster's nodes.
func (c *Client) Nodes(ctx context.Context) ([]*api.NodeListStub, error) {
	nodes, _, err := c.api.Nodes().List(query(ctx, ""))
	return nodes, c.wrap("list nodes", err)
}

// Node reads one node.
func (c *Client) Node(ctx context.Context, id string) (*api.Node, error) {
	node, _, err := c.api.Nodes().Info(id, query(ctx, ""))
	return node, c.wrap("read node "+id, err)
}

// SetNodeMeta sets dynamic metadata on a node; a nil value removes a key.
func (c *Client) SetNodeMeta(ctx context.Context, id string, meta map[string]*string) error {
	request := &api.NodeMetaApplyRequest{NodeID: id, Meta: meta}
	_, err := c.api.Nodes().Meta().Apply(request, query(ctx, ""))
	return c.wrap("set metadata of node "+id, err)
}

// Allocations lists, with their resources, the allocations of all namespaces that pass Nomad's own filter.
func (c *Client) Allocations(ctx context.Context, filter string) ([]*api.AllocationListStub, error) {
	options := query(ctx, api.AllNamespacesNamespace)
	options.Filter = filter
	options.Params = map[string]string{"resources": "true"}
	allocations, _, err := c.api.Allocations().List(options)
	return allocations, c.wrap("list allocations", err)
}

// Allocation reads one allocation of any namespace.
func (c *Client) Allocation(ctx context.Context, id string) (*api.Allocation, error) {
	allocation, _, err := c.api.Allocations().Info(id, query(ctx, ""))
	return allocation, c.wrap("read allocation "+id, err)
}

// Evaluation reads one evaluation of any namespace.
func (c *Client) Evaluation(ctx context.Context, id string) (*api.Evaluation, error) {
	evaluation, _, err := c.api.Evaluations().Info(id, query(ctx, ""))
	return evaluation, c.wrap("read evaluation "+id, err)
}

// Deployment reads one deployment of any namespace.
func (c *Client) Deployment(ctx context.Context, id string) (*api.Deployment, error) {
	deployment, _, err := c.api.Deployments().Info(id, query(ctx, ""))
	return deployment, c.wrap("read deployment "+id, err)
}

// Events streams the cluster's events of the topics that matter to an offer, until the context ends.
func (c *Client) Events(ctx context.Context) (<-chan *api.Events, error) {
	all := []string{string(api.TopicAll)}
	topics := map[api.Topic][]string{
		api.TopicNode: all, api.TopicAllocation: all, api.TopicJob: all, api.TopicEvaluation: all,
	}
	events, err := c.api.EventStream().Stream(ctx, topics, 0, query(ctx, api.AllNamespacesNamespace))
	return events, c.wrap("follow events", err)
}

// EnsureNamespace creates a namespace unless it is there.
func (c *Client) EnsureNamespace(ctx context.Context, name, description string) error {
	_, _, err := c.api.Namespaces().Info(name, query(ctx, ""))
	if err == nil || !NotFound(err) {
		return c.wrap("read namespace "+name, err)
	}
	_, err = c.api.Namespaces().Register(&api.Namespace{Name: name, Description: description}, write(ctx, ""))
	if err != nil {
		return fmt.Errorf("%w: create it with: nomad namespace apply %s", c.wrap("create namespace "+name, err), name)
	}
	return nil
}
