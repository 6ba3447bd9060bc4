package member

import (
	"crypto/sha256"
	"fmt"
	"sort"
	"strings"

	"pangaea/federation/pool"
)

// deviceMatches tells whether a device group is meant by a jobspec's device name, by Nomad's rule.
func deviceMatches(group, ask string) bool {
	parts := strings.SplitN(group, "/", 3)
	if len(parts) != 3 {
		return false
	}
	vendor, kind, name := parts[0], parts[1], parts[2]
	asked := strings.SplitN(ask, "/", 3)
	switch len(asked) {
	case 1:
		return asked[0] == kind
	case 2:
		return asked[0] == vendor && asked[1] == kind
	}
	return asked[0] == vendor && asked[1] == kind && asked[2] == name
}

// offerOf turns what is left on each node into classes with equal capacities counted together.
func offerOf(config Config, list []*room) pool.Offer {
	offer := pool.Offer{Member: config.Alias, Place: config.place(), Price: config.Price}
	classes := map[[sha256.Size]byte]*classBuilder{}
	keys := make([][sha256.Size]byte, 0, len(list))
	for _, r := range list {
		representative := represent(r.node)
		key := classKey(representative)
		builder := classes[key]
		if builder == nil {
			builder = &classBuilder{class: pool.NodeClass{Node: representative}, index: map[string]int{}}
			classes[key] = builder
			keys = append(keys, key)
		}
		builder.add(r)
	}
	sort.Slice(keys, func(i, j int) bool { return string(keys[i][:]) < string(keys[j][:]) })
	for _, key := range keys {
		offer.Classes = append(offer.Classes, classes[key].class)
	}
	return offer
}

type classBuilder struct {
	class pool.NodeClass
	index map[string]int // by what is left, into class.Free
}

func (b *classBuilder) add(r *room) {
	capacity := pool.Capacity{
		Count: 1, CPU: max(r.cpu, 0), MemoryMB: max(r.memory, 0), DiskMB: max(r.disk, 0), Devices: map[string]int{},
	}
	for name, count := range r.devices {
		if count > 0 {
			capacity.Devices[name] = count
		}
	}
	key := fmt.Sprint(capacity.CPU, capacity.MemoryMB, capacity.DiskMB, capacity.Devices)
	i, ok := b.index[key]
	if ok {
		b.class.Free[i].Count++
		return
	}
	b.index[key] = len(b.class.Free)
	b.class.Free = append(b.class.Free, capacity)
}
