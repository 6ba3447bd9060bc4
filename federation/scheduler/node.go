package scheduler

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"strconv"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	psstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"pangaea/federation/pool"
)

// newNode makes the node that Nomad's feasibility code reads. It takes only what a constraint can ask about.
func newNode(from *api.Node, offer pool.Offer) *structs.Node {
	node := &structs.Node{
		ID: from.ID, Name: from.Name, Datacenter: from.Datacenter, NodePool: from.NodePool, NodeClass: from.NodeClass,
		Attributes: from.Attributes, Meta: poolMeta(from.Meta, offer),
		Drivers:       make(map[string]*structs.DriverInfo, len(from.Drivers)),
		HostVolumes:   make(map[string]*structs.ClientHostVolumeConfig, len(from.HostVolumes)),
		NodeResources: &structs.NodeResources{},
	}
	if node.NodePool == "" {
		node.NodePool = structs.NodePoolDefault
	}
	for name, info := range from.Drivers {
		if info != nil {
			node.Drivers[name] = &structs.DriverInfo{Detected: info.Detected, Healthy: info.Healthy}
		}
	}
	for name, volume := range from.HostVolumes {
		if volume != nil {
			node.HostVolumes[name] = &structs.ClientHostVolumeConfig{Name: name, ReadOnly: volume.ReadOnly}
		}
	}
	if from.NodeResources != nil {
		for _, device := range from.NodeResources.Devices {
			if device == nil {
				continue
			}
			node.NodeResources.Devices = append(node.NodeResources.Devices, newDevice(device))
		}
	}
	return node
}

// signature is equal for nodes that no constraint on anything but the pool's attributes can tell apart.
type signature [sha256.Size]byte

func sign(node *api.Node) signature {
	devices := []*api.NodeDeviceResource{}
	if node.NodeResources != nil {
		devices = node.NodeResources.Devices
	}
	data, err := json.Marshal([]any{node.Datacenter, node.NodePool, node.NodeClass, node.Attributes, node.Meta, node.Drivers, node.HostVolumes, devices})
	if err != nil { // these types cannot fail; a signature of its own is the safe answer
		data = []byte(node.ID)
	}
	return sha256.Sum256(data)
}

func poolMeta(meta map[string]string, offer pool.Offer) map[string]string {
	out := maps.Clone(meta)
	if out == nil {
		out = map[string]string{}
	}
	out[pool.MetaMember] = offer.Member
	out[pool.MetaCountry] = offer.Place.Country
	out[pool.MetaContinent] = offer.Place.Continent
	out[pool.MetaRegion] = offer.Place.Region
	out[pool.MetaPrice] = strconv.FormatFloat(offer.Price, 'f', -1, 64)
	return out
}

func newDevice(from *api.NodeDeviceResource) *structs.NodeDeviceResource {
	device := &structs.NodeDeviceResource{
		Vendor: from.Vendor, Type: from.Type, Name: from.Name,
		Attributes: make(map[string]*psstructs.Attribute, len(from.Attributes)),
	}
	for name, value := range from.Attributes {
		if value != nil {
			device.Attributes[name] = &psstructs.Attribute{
				Float: value.FloatVal, Int: value.IntVal, String: value.StringVal, Bool: value.BoolVal, Unit: value.Unit,
			}
		}
	}
	for _, instance := range from.Instances {
		if instance == nil {
			continue
		}
		device.Instances = append(device.Instances, &structs.NodeDevice{ID: instance.ID, Healthy: instance.Healthy})
	}
	return device
}

func newConstraints(lists ...[]*api.Constraint) []*structs.Constraint {
	var out []*structs.Constraint
	for _, list := range lists {
		for _, c := range list {
			if c != nil && !isUnique(c.LTarget) && !isUnique(c.RTarget) {
				out = append(out, &structs.Constraint{LTarget: c.LTarget, RTarget: c.RTarget, Operand: c.Operand})
			}
		}
	}
	return out
}
