package device

import (
	"strconv"
	"strings"

	"pangaea/device/nvml"
)

// replicaMark parts a GPU's UUID from the number of one of its replicas.
const replicaMark = "::"

// replicate splits each unit into replicas that share it. They are a group of their own, of the same name however they share,
// in which memory is what each may count on. Where they take turns nothing enforces it, which is why only the machine's
// owner can allow it.
func replicate(units []unit, s settings) []unit {
	replicas := s.replicas
	if replicas < 2 {
		return units
	}
	var all []unit
	for _, u := range units {
		u.name += " shared"
		u.replicas, u.mps = replicas, s.mps
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

// strategy is how tasks share the unit, in the words of NVIDIA's label gpu.sharing-strategy.
func (u unit) strategy() string {
	if u.mps != nil {
		return "mps"
	}
	return "time-slicing"
}
