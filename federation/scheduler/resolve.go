package scheduler

import (
	"strings"

	"github.com/hashicorp/nomad/nomad/structs"
)

// resolve reads the attribute that a spread or distinct_property names from a class's node.
func resolve(target string, node *structs.Node) (string, bool) {
	name := strings.TrimSuffix(strings.TrimPrefix(target, "${"), "}")
	switch name {
	case "node.datacenter":
		return node.Datacenter, true
	case "node.class":
		return node.NodeClass, true
	case "node.pool":
		return node.NodePool, true
	}
	if key, ok := strings.CutPrefix(name, "attr."); ok {
		v, found := node.Attributes[key]
		return v, found
	}
	if key, ok := strings.CutPrefix(name, "meta."); ok {
		v, found := node.Meta[key]
		return v, found
	}
	return "", false
}
