package device

import (
	"strconv"
	"strings"

	"pangaea/device/nvml"
)

// replicaMark parts a GPU's UUID from the number of one of its replicas.
const replicaMark = "::"

// replicate splits each unit into replicas that take turns on it. They are a group of their own, in which memory is what
// each may count on: nothing enforces it, which is why only the machine's owner can allow it.
func replicate(units []unit, replicas int) []unit {
	if replicas < 2 {
		return units
	}
	var all []unit
	for _, u := range units {
		u.name += " shared"
		u.replicas = replicas
		part := func(r nvml.Reading[uint64]) nvml.Reading[uint64] {
			return nvml.Reading[uint64]{Value: r.Value / uint64(replicas), OK: r.OK}
		}
		u.traits.Memory, u.traits.MemoryReserved = part(u.traits.Memory), part(u.traits.MemoryReserved)
		card := u.id
		for i := range replicas {
			u.id = card + replicaMark + strconv.Itoa(i)
			all = append(all, u)
		}
	}
	return all
}

// card is the UUID of the GPU or instance behind an ID.
func card(id string) string {
	uuid, _, _ := strings.Cut(id, replicaMark)
	return uuid
}
