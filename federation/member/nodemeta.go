package member

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// poolMeta is the metadata that every node of the member carries, so that ${meta.pool.country} works in a jobspec on
// the pool and on this cluster alike. An empty value is a key that is not set.
func (c Config) poolMeta() map[string]string {
	return map[string]string{
		pool.MetaMember: c.Alias, pool.MetaCountry: c.Country, pool.MetaContinent: c.Continent,
		pool.MetaRegion: c.Region, pool.MetaPrice: strconv.FormatFloat(c.Price, 'f', -1, 64),
	}
}

// nodeMarker sets the pool's metadata on nodes that lack it: new ones, and ones whose data directory was lost. It is
// used by one goroutine.
type nodeMarker struct {
	cluster Cluster
	want    map[string]string
	logger  hclog.Logger
	now     func() time.Time
	tried   map[string]time.Time
}

// markEvery keeps a node that cannot be reached from being asked at every change of the cluster.
const markEvery = 10 * time.Second

func (m *nodeMarker) mark(ctx context.Context, s *snapshot) {
	for _, node := range s.nodes {
		change := m.change(node)
		if len(change) == 0 || node.Status != api.NodeStatusReady || m.now().Sub(m.tried[node.ID]) < markEvery {
			continue
		}
		m.tried[node.ID] = m.now()
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := m.cluster.SetNodeMeta(bounded, node.ID, change)
		cancel()
		if err != nil && ctx.Err() == nil {
			m.logger.Warn("cannot set the pool's metadata on a node, trying again", "node", node.Name, "error", err,
				"next_step", "give nomad.token_file a token with node:write")
		}
	}
}

func (m *nodeMarker) change(node *api.Node) map[string]*string {
	change := map[string]*string{}
	for key, value := range m.want {
		have, set := node.Meta[key]
		switch {
		case value == "" && set:
			change[key] = nil
		case value != "" && have != value:
			change[key] = ptr(value)
		}
	}
	return change
}
