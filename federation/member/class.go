package member

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// represent returns what a constraint can ask about a node, and nothing that tells which node it is or where it can be
// reached. Nodes with equal representatives are one class.
func represent(node *api.Node) *api.Node {
	return &api.Node{
		Datacenter: node.Datacenter, NodeClass: node.NodeClass, NodePool: node.NodePool,
		Attributes: publicAttributes(node.Attributes), Meta: publicMeta(node.Meta),
		Status: node.Status, SchedulingEligibility: node.SchedulingEligibility,
		Drivers: publicDrivers(node.Drivers), HostVolumes: publicVolumes(node.HostVolumes),
		NodeResources: publicResources(node.NodeResources), ReservedResources: publicReserved(node.ReservedResources),
		HostNetworks: publicHostNetworks(node.HostNetworks), NodeMaxAllocs: node.NodeMaxAllocs,
	}
}

func publicAttributes(attributes map[string]string) map[string]string {
	public := make(map[string]string, len(attributes))
	for key, value := range attributes {
		if !isUnique(key) && !isAddress(value) {
			public[key] = value
		}
	}
	return public
}

func publicMeta(meta map[string]string) map[string]string {
	public := make(map[string]string, len(meta))
	for key, value := range meta {
		if !isUnique(key) && key != "connect.log_level" {
			public[key] = value
		}
	}
	return public
}

// isUnique tells whether Nomad leaves a key out of a node's class, as one that is of this node alone.
func isUnique(key string) bool { return strings.HasPrefix(key, "unique.") }

// isAddress tells whether a value is an IP address, alone or with a port or in a URL.
func isAddress(value string) bool {
	if _, rest, found := strings.Cut(value, "://"); found {
		value, _, _ = strings.Cut(rest, "/")
	}
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.Atoi(port)
		if err == nil {
			value = host
		}
	}
	return net.ParseIP(value) != nil
}

func publicDrivers(drivers map[string]*api.DriverInfo) map[string]*api.DriverInfo {
	public := make(map[string]*api.DriverInfo, len(drivers))
	for name, driver := range drivers {
		public[name] = &api.DriverInfo{
			Attributes: publicAttributes(driver.Attributes), Detected: driver.Detected, Healthy: driver.Healthy,
		}
	}
	return public
}

func publicVolumes(volumes map[string]*api.HostVolumeInfo) map[string]*api.HostVolumeInfo {
	public := make(map[string]*api.HostVolumeInfo, len(volumes))
	for name, volume := range volumes {
		public[name] = &api.HostVolumeInfo{ReadOnly: volume.ReadOnly}
	}
	return public
}

func publicHostNetworks(networks map[string]*api.HostNetworkInfo) map[string]*api.HostNetworkInfo {
	public := make(map[string]*api.HostNetworkInfo, len(networks))
	for name := range networks {
		public[name] = &api.HostNetworkInfo{Name: name}
	}
	return public
}

// publicResources keeps sizes, network modes and devices; a device's instances are numbered instead of named.
func publicResources(resources *api.NodeResources) *api.NodeResources {
	if resources == nil {
		return nil
	}
	public := &api.NodeResources{
		Cpu:    api.NodeCpuResources{CpuShares: resources.Cpu.CpuShares, TotalCpuCores: resources.Cpu.TotalCpuCores},
		Memory: resources.Memory, Disk: api.NodeDiskResources{DiskMB: resources.Disk.DiskMB},
	}
	modes := map[string]bool{}
	for _, network := range resources.Networks {
		if !modes[network.Mode] {
			modes[network.Mode] = true
			public.Networks = append(public.Networks, &api.NetworkResource{Mode: network.Mode})
		}
	}
	for _, device := range resources.Devices {
		copied := &api.NodeDeviceResource{
			Vendor: device.Vendor, Type: device.Type, Name: device.Name, Attributes: publicDeviceAttributes(device.Attributes),
		}
		for i, instance := range device.Instances {
			copied.Instances = append(copied.Instances, &api.NodeDevice{ID: strconv.Itoa(i), Healthy: instance.Healthy})
		}
		public.Devices = append(public.Devices, copied)
	}
	return public
}

// publicDeviceAttributes leaves out those of single devices: why one is not offered names the owner's programs.
func publicDeviceAttributes(attributes map[string]*api.Attribute) map[string]*api.Attribute {
	public := maps.Clone(attributes)
	maps.DeleteFunc(public, func(key string, _ *api.Attribute) bool { return isUnique(key) })
	return public
}

func publicReserved(reserved *api.NodeReservedResources) *api.NodeReservedResources {
	if reserved == nil {
		return nil
	}
	return &api.NodeReservedResources{Cpu: reserved.Cpu, Memory: reserved.Memory, Disk: reserved.Disk}
}

// classKey is equal for nodes that are alike. Free disk differs from node to node by a few MiB though the nodes are
// twins, and capacity is offered by itself, so disk does not count.
func classKey(representative *api.Node) [sha256.Size]byte {
	alike := *representative
	if alike.NodeResources != nil {
		resources := *alike.NodeResources
		resources.Disk = api.NodeDiskResources{}
		alike.NodeResources = &resources
	}
	text, err := json.Marshal(alike) // maps are encoded in the order of their keys
	if err != nil {                  // cannot be for a type of strings and numbers
		return sha256.Sum256([]byte(err.Error()))
	}
	return sha256.Sum256(text)
}
